"""A widened graph computes in float32 on the weights that the 16-bit graph has."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes import deploy_passes
from export.passes.widening import WideningPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_nothing_is_rounded_but_the_weights(precision: str) -> None:
    exact, wide = traced_graph(output="scores"), traced_graph(output="scores")
    for graph_pass in deploy_passes(precision):
        graph_pass(wide)
    types = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    low = {
        value.name: value.const_value.numpy().astype(np.float32)
        for value in wide.graph.initializers.values()
        if value.dtype in types and value.const_value is not None
    }
    for value in exact.graph.initializers.values():
        rounded = [low[name] for name in low if str(name).rsplit("/", 1)[0] == value.name]
        if value.dtype == ir.DataType.FLOAT and len(rounded) == 1:
            value.const_value = ir.Tensor(rounded[0], name=value.name)
    assert WideningPass()(wide).modified
    assert not WideningPass()(wide).modified
    images = random_images(1, 64, 64)
    got, expected = (run_graph(model, images)[0] for model in (wide, exact))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
