"""Traced graphs and how to run them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from export.deploy import DeployModel
from export.passes.node_names import NodeNamesPass
from export.trace import trace_model
from tests.tiny_models import make_config, make_model


@lru_cache
def _traced(head: str, output: str, batch: int | None, strips: int) -> ir.Model:
    deploy = DeployModel(make_model(make_config(head)), (64, 64), output, strips)
    model = trace_model(deploy, (64, 64), batch)
    NodeNamesPass()(model)
    return model


def traced_graph(
    head: str = "cascade", output: str = "labels", batch: int | None = 1, strips: int = 1
) -> ir.Model:
    """Return a fresh copy of a tiny model's named graph; tracing is done once."""
    return _traced(head, output, batch, strips).clone()


def run_graph(model: ir.Model, images: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
    """Check the graph and run it on ONNX Runtime's CPU provider."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    # Q/DQ mean what they say: products in INT8 would saturate on CPUs without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[NDArray[np.generic]] = session.run(None, {"image": images})
    return outputs


def relative_rms(got: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """Return the root mean square of the difference over that of the expected values."""
    wide, true = got.astype(np.float64), expected.astype(np.float64)
    return float(np.sqrt(((wide - true) ** 2).mean() / (true**2).mean()))
