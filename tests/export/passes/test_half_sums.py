"""Attention summed in FP16 is that of a kernel that does so, step by step."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.passes import deploy_passes
from export.passes.attention import find_attentions
from export.passes.half_sums import HalfSumsPass, choose_chunk
from export.passes.rounding_emulation import RoundingEmulationPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images

QUERIES, KEYS, WIDTH = 4, 40, 32
Floats = NDArray[np.float32]


def _attention(
    scale: float = 1.0, dtype: type = np.float16, float_sums: bool = False
) -> tuple[ir.Model, Floats, Floats, Floats]:
    """Return an attention of constants to pixels, and its query, key and value."""
    rng = np.random.default_rng(0)
    query, key, value = (
        (rng.standard_normal(shape) * factor).astype(dtype)
        for shape, factor in (((1, 1, QUERIES, WIDTH), 1), ((1, 1, WIDTH, KEYS), 0.1),
                              ((1, 1, KEYS, 8), scale))
    )  # fmt: skip
    value = np.abs(value)  # so that its sums grow
    low = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)

    zero = [node("Cast", "image", "pixels", to=low), node("Mul", "pixels nothing", "zero"),
            node("Add", "q zero", "query")]  # fmt: skip
    if float_sums:
        attention = [
            *(node("Cast", one, f"{one}32", to=TensorProto.FLOAT) for one in ("query", "k", "v")),
            node("MatMul", "query32 k32", "logits32"), node("Cast", "logits32", "logits", to=low),
            node("Softmax", "logits", "weights", axis=-1),
            node("Cast", "weights", "weights32", to=TensorProto.FLOAT),
            node("MatMul", "weights32 v32", "context32"),
            node("Cast", "context32", "context", to=low),
        ]  # fmt: skip
    else:
        attention = [node("MatMul", "query k", "logits"),
                     node("Softmax", "logits", "weights", axis=-1),
                     node("MatMul", "weights v", "context")]  # fmt: skip
    last = node("Cast", "context", "out", to=TensorProto.FLOAT)
    constants = {"q": query, "k": key, "v": value, "nothing": np.zeros(1, dtype)}
    graph = helper.make_graph(
        [*zero, *attention, last], "attention",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 1, 1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, QUERIES, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    return model, *(part.astype(np.float32)[0, 0] for part in (query, key, value))


def _run(model: ir.Model) -> Floats:
    RoundingEmulationPass()(model)
    (out,) = run_graph(model, np.zeros((1, 1, 1, 1), np.uint8))
    return np.asarray(out, np.float32)[0, 0]


def _sum_in_half(left: Floats, right: Floats, chunk: int) -> Floats:
    total = np.zeros((len(left), right.shape[1]), np.float16)
    for start in range(0, len(right), chunk):
        part = left[:, start : start + chunk] @ right[start : start + chunk]
        with np.errstate(over="ignore"):
            total = (total.astype(np.float32) + part).astype(np.float16)
    return total.astype(np.float32)


@pytest.mark.parametrize("float_sums", [False, True])
def test_sums_are_those_of_a_kernel_step_by_step(float_sums: bool) -> None:
    model, query, key, value = _attention(float_sums=float_sums)
    exact = _run(model.clone())
    assert HalfSumsPass()(model).modified
    logits = _sum_in_half(query, key, 16)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
    weights = weights.astype(np.float32)
    expected = _sum_in_half(weights, value, 16) / weights.sum(axis=1, keepdims=True)
    got = _run(model)
    # One unit of FP16's last place, where float32 itself is summed in another order.
    np.testing.assert_allclose(got, expected, rtol=2**-10)
    assert (got != exact).any()


def test_unnormalized_sums_overflow_where_normalized_ones_do_not() -> None:
    model, *_ = _attention(scale=2.0**13)
    assert np.isfinite(_run(model.clone())).all()
    HalfSumsPass()(model)
    assert not np.isfinite(_run(model)).all()


def test_bfloat16_attention_is_summed_in_float32() -> None:
    model, *_ = _attention(dtype=ml_dtypes.bfloat16)
    assert not HalfSumsPass()(model).modified


def test_sums_take_at_most_sixteen_steps_of_at_least_sixteen_terms() -> None:
    assert [choose_chunk(terms) for terms in (7, 32, 256, 257, 1024, 1370)] == [
        16, 16, 16, 32, 64, 96,
    ]  # fmt: skip


def test_unfused_attention_is_summed_in_float32() -> None:
    model = traced_graph()
    for graph_pass in deploy_passes("fp16", "unfused"):
        graph_pass(model)
    assert not HalfSumsPass()(model).modified


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_labels_of_a_whole_graph_hardly_change(precision: str) -> None:
    model = traced_graph(output="scores")
    for graph_pass in deploy_passes(precision):
        graph_pass(model)
    worst, images = model.clone(), random_images(1, 64, 64)
    encoder = [a for a in find_attentions(worst.graph) if str(a.softmax.name).startswith("enc")]
    assert HalfSumsPass()(worst).modified
    assert not HalfSumsPass()(worst).modified
    left = [str(a.softmax.name) for a in find_attentions(worst.graph)]
    assert len(left) == (0 if precision == "fp16" else len(encoder))
    scores = []
    for graph in (model, worst):
        RoundingEmulationPass()(graph)
        scores.append(np.asarray(run_graph(graph, images)[0]))
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.05


def test_all_gemms_too() -> None:
    model = traced_graph()
    for graph_pass in deploy_passes("fp16"):
        graph_pass(model)
    HalfSumsPass(all_gemms=True)(model)
    assert not HalfSumsPass(all_gemms=True)(model).modified
    left = [n for n in model.graph if n.op_type == "MatMul" and n.outputs[0].dtype == 10]
    assert not left
