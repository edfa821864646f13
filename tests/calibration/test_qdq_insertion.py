"""Q/DQ insertion: scales by hand, rounding by property, near misses, equality, idempotence."""

import re
from functools import lru_cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.images import CalibrationImages
from calibration.qdq_insertion import (
    QdqInsertionPass,
    list_activations,
    list_attentions,
    list_products,
    quantise,
    round_scale,
)
from calibration.quantization import Calibration, calibrate
from calibration.scheme import SCHEMES, LayerRule, Scheme, find_scheme
from engines.audit import audit_engine, check_audit
from engines.target import Target
from engines.trt_builder import build_engine
from export.deploy import DeployModel
from export.passes import cast_beside_quantised, deploy_passes
from export.passes.cast_precision import CastPrecisionPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.trace import trace_model
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import make_config, make_model, random_images

INT8, FP8 = SCHEMES["int8"], SCHEMES["fp8"]
FP8_ATTENTION = find_scheme("fp8", attention=True)


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


@pytest.mark.parametrize("head", ["cascade", "shrunk"])
def test_onnx_runtime_multiplies_in_int8(head: str, tmp_path: Path) -> None:
    """It makes an integer product of each, where it joined those with a bias to a float Gemm."""
    model = traced_graph(head)
    products = [str(node.name) for node, _ in list_products(model.graph, INT8)]
    limits = dict.fromkeys(list_activations(model.graph, INT8), 6.0)
    QdqInsertionPass(INT8, limits)(model)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3  # it warns that such a file is for this machine only
    proto = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(proto, settings, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert {n.name for n in nodes if n.op_type == "MatMulIntegerToFloat"} == set(products)


def test_products_that_share_a_bias_share_its_row() -> None:
    model = traced_graph()
    shared = ir.Value(name="bias", const_value=ir.Tensor(np.zeros(32, np.float32), name="bias"))
    model.graph.initializers.add(shared)
    adds = [node for node in model.graph if re.fullmatch(r"encoder/\d/fc2/Add", str(node.name))]
    own = {str(add.inputs[1].name) for add in adds}
    for add in adds:
        add.replace_input_with(1, shared)
    QdqInsertionPass(INT8, dict.fromkeys(list_activations(model.graph, INT8), 6.0))(model)
    assert {str(add.inputs[1].name) for add in adds} == {"bias/row"}
    assert _array(model, "bias/row").shape == (1, 1, 32)
    assert "bias" not in model.graph.initializers
    assert len(own) == len(adds) == 4


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


def _attention(name: str = "encoder/0/Softmax", tap: str | None = None) -> ir.Model:
    """softmax(q @ k) @ v of three inputs; `tap` names the tensor that an Identity reads too."""
    sizes = {"q": [1, 2, 4, 8], "k": [1, 2, 8, 4], "v": [1, 2, 4, 8]}
    floats = ir.TensorType(ir.DataType.FLOAT)
    q, k, v = (ir.Value(name=n, shape=ir.Shape(sizes[n]), type=floats) for n in "qkv")
    logits = ir.node("MatMul", [q, k], name="encoder/0/MatMul")
    softmax = ir.node("Softmax", logits.outputs, {"axis": -1}, name=name)
    context = ir.node("MatMul", [softmax.outputs[0], v], name="encoder/0/MatMul_1")
    nodes = [logits, softmax, context]
    for node, output in zip(nodes, ("logits", "weights", "y"), strict=True):
        node.outputs[0].name, node.outputs[0].type = output, floats
        node.outputs[0].shape = ir.Shape([1, 2, 4, 8] if output == "y" else [1, 2, 4, 4])
    outputs = list(context.outputs)
    if tap:
        read = next(node.outputs[0] for node in nodes if node.outputs[0].name == tap)
        nodes.append(ir.node("Identity", [read], name="encoder/0/Identity"))
        nodes[-1].outputs[0].name, nodes[-1].outputs[0].type = "tapped", floats
        outputs += nodes[-1].outputs
    graph = ir.Graph([q, k, v], outputs, nodes=nodes, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


ATTENTION_LIMITS = {"q": 2.0, "k": 8.96, "v": 4.0}


def test_attentions_scales_by_hand() -> None:
    model = _attention()
    assert list_activations(model.graph, FP8_ATTENTION) == ["q", "k", "v"]
    assert QdqInsertionPass(FP8_ATTENTION, ATTENTION_LIMITS)(model).modified
    assert [_array(model, f"{name}/scale") for name in "qkv"] == [np.float32(0.02)] * 3
    assert _array(model, "weights/scale") == np.float32(1 / 448)
    assert _array(model, "weights/zero").dtype == ml_dtypes.float8_e4m3fn
    ops = [node.op_type for node in model.graph]
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert ops == [*pair, *pair, "MatMul", "Softmax", *pair, *pair, "MatMul"]
    assert not QdqInsertionPass(FP8_ATTENTION, ATTENTION_LIMITS)(model).modified
    assert list_activations(model.graph, FP8_ATTENTION) == []


def test_the_softmaxs_scale_is_exact_in_half_too() -> None:
    model = _attention()
    for value in (*model.graph.inputs, *(node.outputs[0] for node in model.graph)):
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    QdqInsertionPass(FP8_ATTENTION, ATTENTION_LIMITS)(model)
    scale = _array(model, "weights/scale")
    assert scale.dtype == np.float16
    assert scale == np.float16(1 / 448)


@pytest.mark.parametrize(
    "model",
    [
        _attention("head/stages/0/0/Softmax"),
        _attention("encoder/0/Softmax_1"),
        _attention(tap="logits"),
        _attention(tap="weights"),
    ],
    ids=["of the head", "of another name", "logits read twice", "softmax read twice"],
)
def test_attentions_near_misses_stay_float(model: ir.Model) -> None:
    assert list_attentions(model.graph, FP8_ATTENTION) == []
    assert not QdqInsertionPass(FP8_ATTENTION, ATTENTION_LIMITS)(model).modified


@pytest.mark.parametrize("kept", ["encoder/0/MatMul", "encoder/0/Softmax", "encoder/0/MatMul_1"])
def test_attention_is_kept_whole(kept: str) -> None:
    model = _attention()
    quantise_rest = QdqInsertionPass(FP8_ATTENTION, ATTENTION_LIMITS, frozenset({kept}))
    assert not quantise_rest(model).modified


def test_attention_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"node 'encoder/0/Softmax': no range .* activation 'v'"):
        QdqInsertionPass(FP8_ATTENTION, {"q": 1.0, "k": 1.0})(_attention())
    assert not QdqInsertionPass(FP8, {})(_attention()).modified
    with pytest.raises(ValueError, match=r"attention in int8: compilers fuse .* up to 512 tokens"):
        find_scheme("int8", attention=True)
    with pytest.raises(ValueError, match="precision 'fp4': expected one of int8, fp8"):
        find_scheme("fp4")
    assert find_scheme("int8") == INT8
    assert find_scheme("fp8") == FP8


@lru_cache
def _graph_with_fusible_attention() -> ir.Model:
    """64 tokens of 32 channels a head: from 32 tokens on, FP8 attention is fused."""
    model = make_model(make_config("single", embed_dim=64, num_heads=2, depth=2, tap_blocks=(1,)))
    graph = trace_model(DeployModel(model, (128, 128), "scores"), (128, 128), 1)
    for graph_pass in deploy_passes("fp16"):
        graph_pass(graph)
    return graph


def _attending_graph() -> ir.Model:
    model = _graph_with_fusible_attention().clone()
    activations = list_activations(model.graph, FP8_ATTENTION)
    QdqInsertionPass(FP8_ATTENTION, dict.fromkeys(activations, 6.0))(model)
    return model


def test_a_whole_graph_with_attention() -> None:
    """Calibrated and quantised, scores stay close, and a second run changes nothing."""
    model = _graph_with_fusible_attention().clone()
    images = random_images(2, 128, 128)
    expected = run_graph(model.clone(), images[:1])[0]
    assert len(list_attentions(model.graph, FP8_ATTENTION)) == 2
    activations = list_activations(model.graph, FP8_ATTENTION)
    products = list_activations(model.graph, FP8)
    assert activations[: len(products)] == products
    assert len(activations) == len(products) + 2 * 3
    calibration = Calibration(CalibrationImages(images, "noise"), progress=False)
    ranges = calibrate(model, FP8_ATTENTION, calibration)
    assert set(ranges.limits) == set(activations)
    insertion = QdqInsertionPass(FP8_ATTENTION, ranges.limits)
    assert insertion(model).modified
    assert not insertion(model).modified
    assert relative_rms(run_graph(model, images[:1])[0], expected) < 0.1


def test_bf16_beside_int8_products() -> None:
    """Products keep FP32 around their Q/DQ, the rest is BF16, and scores stay close."""
    graph, images = traced_graph(output="scores"), random_images(1, 64, 64)
    expected = run_graph(graph.clone(), images)[0]
    limits = dict.fromkeys(list_activations(graph.graph, INT8), 6.0)
    QdqInsertionPass(INT8, limits)(graph)
    cast = cast_beside_quantised(graph.graph)
    assert cast(graph).modified
    kinds = {str(node.name): node.outputs[0].dtype for node in graph.graph}
    products = [use.node for node in graph.graph if node.op_type == "DequantizeLinear"
                for use in node.outputs[0].uses()]  # fmt: skip
    assert products
    for product in products:
        assert kinds[str(product.name)] == ir.DataType.FLOAT
    assert kinds["encoder/0/norm1/LayerNormalization"] == ir.DataType.BFLOAT16
    assert not any(
        node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and any(value.dtype == ir.DataType.BFLOAT16 for value in node.inputs if value)
        for node in graph.graph
    )
    RoundingEmulationPass()(graph)
    assert relative_rms(run_graph(graph, images)[0], expected) < 0.1


@pytest.mark.trt_rtx
def test_the_compiler_fuses_every_encoder_attention_in_fp8(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
    path = tmp_path / "model.onnx"
    ir.save(_attending_graph(), path)
    engine = build_engine(path, Target.TRT_RTX, ("SM89",), progress=False)
    audit = audit_engine(engine, path)
    check_audit(audit, "fp8")
    assert audit.attention_datatypes == {"FP8": 2, "Half": audit.attentions - 2}
    assert audit.products["encoder/1/MatMul_1"] == ("FP8", "FP8")
    assert engine.plan.count(b"fmha::Ada_qmma_e4m3_fp32_traits") >= 2
