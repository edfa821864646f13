"""Copies of a graph that are only there to be checked, on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
import onnxruntime

from segvit.memory import release_memory


def open_session(path: Path, rewrite: Callable[[ir.Model], object], optimize: bool = True) -> Any:
    """Return a session of a rewritten copy of a graph, which holds no second copy of its weights.

    Args:
        path: the ONNX file.
        rewrite: what is done to the graph in place.
        optimize: False computes every node as it is written.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # What one image needs goes back before the reference runs: an arena would keep it.
    options.enable_cpu_mem_arena = False
    # Q/DQ mean what they say: products in INT8 would saturate on CPUs without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    model = ir.load(path)
    rewrite(model)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "checked.onnx"
        # Beside the graph, so that no size limit of the format stands in the way.
        ir.save(model, copy, external_data="checked.data")
        del model
        release_memory()
        return onnxruntime.InferenceSession(copy, options, providers=["CPUExecutionProvider"])
