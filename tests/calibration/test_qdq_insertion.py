"""Q/DQ insertion: scales by hand, rounding by property, near misses, equality, idempotence."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.qdq_insertion import QdqInsertionPass, list_products, quantise, round_scale
from calibration.scheme import SCHEMES, LayerRule, Scheme
from export.passes.cast_precision import CastPrecisionPass
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import random_images

INT8, FP8 = SCHEMES["int8"], SCHEMES["fp8"]


def _product(weight: np.ndarray, name: str = "encoder/0/fc1/MatMul") -> ir.Model:
    """One MatMul of a float input and a weight."""
    x = ir.Value(name="x", shape=ir.Shape([1, len(weight)]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(
        name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.Tensor(weight, name="w"),
    )  # fmt: skip
    node = ir.node("MatMul", [x, w], name=name)
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([1, weight.shape[1]])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def _array(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def test_scales_by_hand() -> None:
    weight = np.array([[1.27, -0.5], [-0.635, 0.254]], np.float32)
    model = _product(weight)
    assert QdqInsertionPass(INT8, {"x": 2.54})(model).modified
    assert _array(model, "x/scale") == np.float32(0.02)
    assert np.allclose(_array(model, "w/scale"), [0.01, 0.5 / 127])
    assert _array(model, "w/quantised").tolist() == [[127, -127], [-64, 65]]  # 63.5: ties to even
    assert _array(model, "w/quantised").dtype == np.int8
    assert "w" not in model.graph.initializers
    ops = [node.op_type for node in model.graph]
    assert ops == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert [int(_array(model, "x/zero"))] == [0]


def test_a_packed_qkv_has_one_scale() -> None:
    model = _product(np.array([[1.27, 0.0127]], np.float32), "encoder/3/qkv/MatMul")
    QdqInsertionPass(INT8, {"x": 1.0})(model)
    assert _array(model, "w/scale").shape == ()
    assert _array(model, "w/quantised").tolist() == [[127, 1]]


def test_pixels_lose_nothing() -> None:
    model = _product(np.ones((1, 1), np.float32), "patch_embed/linear/MatMul")
    QdqInsertionPass(INT8, {})(model)
    assert _array(model, "x/scale") == 1.0


@pytest.mark.parametrize(
    "name",
    ["encoder/0/proj/MatMul", "head/stages/0/0/linear1/MatMul", "encoder/0/fc1/Add", "tail/MatMul"],
)
def test_near_misses_stay_float(name: str) -> None:
    model = _product(np.ones((2, 2), np.float32), name)
    assert not QdqInsertionPass(INT8, {"x": 1.0})(model).modified


def test_a_product_of_activations_stays_float() -> None:
    scheme = Scheme("int8", ir.DataType.INT8, 127.0, (LayerRule(".*", "tensor"),))
    found = [node.inputs[1].const_value for node, _ in list_products(traced_graph().graph, scheme)]
    assert all(weight is not None for weight in found)


def test_what_is_kept_and_what_lacks_a_range() -> None:
    model = _product(np.ones((2, 2), np.float32))
    assert not QdqInsertionPass(INT8, {}, frozenset({"encoder/0/fc1/MatMul"}))(model).modified
    with pytest.raises(ValueError, match="no range for its activation 'x'; calibrate again"):
        QdqInsertionPass(INT8, {})(model)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("head", ["cascade", "shrunk"])
def test_a_whole_graph(head: str, scheme: Scheme) -> None:
    """Every product of the scheme, once; scores stay close, a second run changes nothing."""
    model = traced_graph(head, output="scores")
    CastPrecisionPass(ir.DataType.FLOAT16)(model)
    images = random_images(1, 64, 64)
    expected = run_graph(model.clone(), images)[0]
    products = list_products(model.graph, scheme)
    assert len(products) >= 3 * 4  # of four blocks
    limits = {str(node.inputs[0].name): 6.0 for node, _ in products}
    assert QdqInsertionPass(scheme, limits)(model).modified
    assert not QdqInsertionPass(scheme, limits)(model).modified
    low = [v for v in model.graph.initializers.values() if v.dtype == scheme.dtype]
    assert len([v for v in low if v.const_value is not None and v.const_value.size > 1]) == len(
        products
    )
    assert relative_rms(run_graph(model, images)[0], expected) < 0.1


def test_shared_activations_are_quantised_once() -> None:
    rule = LayerRule(r".*/(key|value)/MatMul", "tensor")
    scheme = Scheme("int8", ir.DataType.INT8, 127.0, (rule,))
    model = traced_graph()
    products = list_products(model.graph, scheme)
    activations = {str(node.inputs[0].name) for node, _ in products}
    assert len(activations) < len(products)
    QdqInsertionPass(scheme, dict.fromkeys(activations, 4.0))(model)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == len(activations)


VALUES = hnp.arrays(np.float64, (3, 4), elements=st.floats(-100, 100, width=32))


@given(VALUES)
def test_rounding_is_within_half_a_step_symmetric_and_monotone(values: np.ndarray) -> None:
    scale = round_scale(np.abs(values).max() / 127.0, ir.DataType.FLOAT)
    stored = quantise(values, scale, INT8).astype(np.float64)
    assert (np.abs(stored * scale - values) <= 0.5 * float(scale) * (1 + 1e-6) + 1e-12).all()
    assert (quantise(-values, scale, INT8) == -stored).all()
    order = np.argsort(values, axis=None)
    assert (np.diff(stored.ravel()[order]) >= 0).all()


@given(VALUES)
def test_fp8_rounding_is_relative_symmetric_and_monotone(values: np.ndarray) -> None:
    """Three bits of mantissa: a sixteenth of the value at most, or half the smallest step."""
    scale = round_scale(np.abs(values).max() / 448.0, ir.DataType.FLOAT)
    stored = quantise(values, scale, FP8).astype(np.float64)
    error = np.abs(stored * scale - values)
    assert (error <= np.maximum(np.abs(values) / 16, 2.0**-10 * float(scale)) * (1 + 1e-5)).all()
    assert (quantise(-values, scale, FP8).astype(np.float64) == -stored).all()
    order = np.argsort(values, axis=None)
    assert (np.diff(stored.ravel()[order]) >= 0).all()


def test_tiny_scales_are_rounded_up() -> None:
    assert round_scale(np.array([0.0]), ir.DataType.FLOAT16) == 1.0
    step = 2.0**-24  # FP16's smallest number
    rounded = round_scale(np.array([1e-9, 1.4 * step, 2 * step]), ir.DataType.FLOAT16)
    assert rounded.astype(np.float64).tolist() == [step, 2 * step, 2 * step]
