"""The emulated graph computes on values bfloat16 can hold, in float32."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from export.passes.cast_precision import CastPrecisionPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.passes.score_outputs import ScoreOutputsPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images


def test_results_are_rounded_to_bfloat16() -> None:
    model = traced_graph()
    CastPrecisionPass(ir.DataType.BFLOAT16)(model)
    ScoreOutputsPass()(model)
    assert RoundingEmulationPass()(model).modified
    assert not RoundingEmulationPass()(model).modified
    weights = [v.const_value.numpy() for v in model.graph.initializers.values()]
    outputs = run_graph(model, random_images(1, 64, 64))
    floats = [array for array in (*weights, *outputs) if array.dtype == np.float32]
    assert len(floats) > 100
    for array in floats:
        assert (array == array.astype(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_leaves_other_graphs_alone() -> None:
    assert not RoundingEmulationPass()(traced_graph()).modified
