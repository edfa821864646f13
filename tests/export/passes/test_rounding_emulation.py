"""The emulated graph computes in float32 on values that the 16-bit types can hold."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.qdq_insertion import quantise
from calibration.scheme import SCHEMES
from export.passes import EXCEPTIONS
from export.passes.cast_precision import CastPrecisionPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.passes.score_outputs import ScoreOutputsPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images

FP16, BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
NUMPY = {FP16: np.dtype(np.float16), BF16: np.dtype(ml_dtypes.bfloat16)}
Pixels = NDArray[np.uint8]


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> ir.Model:
    """Return a graph from the uint8 `image` (4, 4) to the 16-bit values in front of `out`."""
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, [4, 4])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 4])]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def _run(model: ir.Model, image: Pixels) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (out,) = session.run(None, {"image": image})
    return np.asarray(out)


def _node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def _image() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)


@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_values_are_those_of_an_emulation_node_by_node(dtype: ir.DataType) -> None:
    low = NUMPY[dtype]
    scale, weight, shift = (
        np.array(values, np.float32).astype(low)
        for values in (0.3, [[3, -1, 2, 5], [1, 7, -4, 2], [2, 2, 1, 1], [-3, 4, 9, 1]], 33.3)
    )
    model = _graph(
        [
            _node("Cast", "image", "pixels", to=dtype),
            _node("Mul", "pixels scale", "scaled"),
            _node("Transpose", "scaled", "turned", perm=[1, 0]),
            _node("MatMul", "turned weight", "product"),
            _node("Add", "product shift", "sum"),
            _node("Relu", "sum", "positive"),
            _node("Mul", "positive positive", "square"),
            _node("Cast", "square", "out", to=TensorProto.FLOAT),
        ],
        {"scale": scale, "weight": weight, "shift": shift},
    )

    def rounded(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return values.astype(low).astype(np.float32)

    wide = [array.astype(np.float32) for array in (scale, weight, shift)]
    product = rounded(rounded(_image().astype(np.float32) * wide[0]).T @ wide[1])
    positive = np.maximum(rounded(product + wide[2]), 0)
    expected = rounded(positive * positive)
    assert RoundingEmulationPass()(model).modified
    got = _run(model, _image())
    assert (got == expected).all()
    assert np.isinf(got).any() == (dtype == FP16)
    casts = [node.name for node in model.graph if node.name and node.name.endswith("/round")]
    assert casts == ["scaled/round", "product/round", "sum/round", "square/round"]


def test_onnx_runtime_alone_does_not_see_an_overflow() -> None:
    """Why the pass is there: 300 * 300 / 300 is finite without it, and infinite on a GPU."""
    constants = {"big": np.float16(300), "small": np.float16(1 / 300)}
    nodes = [
        _node("Cast", "image", "pixels", to=TensorProto.FLOAT16),
        _node("Mul", "pixels big", "product"),
        _node("Mul", "product small", "back"),
        _node("Cast", "back", "out", to=TensorProto.FLOAT),
    ]
    image = np.full((4, 4), 219, np.uint8)  # 219 * 300 = 65,700
    model = _graph(nodes, constants)
    assert np.isfinite(_run(model, image)).all()
    RoundingEmulationPass()(model)
    assert np.isinf(_run(model, image)).all()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_q_dq_with_16_bit_scales_mean_what_they_say(precision: str, dtype: ir.DataType) -> None:
    scheme, low = SCHEMES[precision], NUMPY[dtype]
    scale = np.array(0.37, np.float32).astype(low)
    zero = np.zeros((), scheme.dtype.numpy())
    model = _graph(
        [
            _node("Cast", "image", "pixels", to=dtype),
            _node("QuantizeLinear", "pixels scale zero", "stored"),
            _node("DequantizeLinear", "stored scale zero", "restored"),
            _node("Cast", "restored", "out", to=TensorProto.FLOAT),
        ],
        {"scale": scale, "zero": zero},
    )
    RoundingEmulationPass()(model)
    step = np.float64(scale.astype(np.float32))
    stored = quantise(_image().astype(np.float64), np.array(step), scheme).astype(np.float32)
    expected = (stored * np.float32(step)).astype(low).astype(np.float32)
    assert (_run(model, _image()) == expected).all()


@pytest.mark.parametrize(
    ("dtype", "exceptions"),
    [(FP16, None), (BF16, None), (BF16, EXCEPTIONS["bf16"])],
    ids=["fp16", "bf16", "mixed"],
)
def test_every_value_is_rounded(
    dtype: ir.DataType, exceptions: dict[str, ir.DataType] | None
) -> None:
    model = traced_graph()
    CastPrecisionPass(dtype, exceptions)(model)
    ScoreOutputsPass()(model)
    types = {v.name: v.dtype for node in model.graph for v in node.outputs if v.dtype in NUMPY}
    types |= {v.name: v.dtype for v in model.graph.initializers.values() if v.dtype in NUMPY}
    assert RoundingEmulationPass()(model).modified
    assert not RoundingEmulationPass()(model).modified
    values = [v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    read = [v for v in values if any(u.node.op_type != "Cast" for u in v.uses())]
    weights = list(model.graph.initializers.values())
    model.graph.outputs.extend(read)
    checked = 0
    for value, array in zip(
        (*weights, *read),
        (*[v.const_value.numpy() for v in weights],
         *run_graph(model, random_images(1, 64, 64))[-len(read) :]),
        strict=True,
    ):  # fmt: skip
        low = types.get(str(value.name).removesuffix("/widened"))
        if low is not None:
            assert (array == array.astype(NUMPY[low]).astype(np.float32)).all(), value.name
            checked += 1
    assert checked > 150


def test_leaves_other_graphs_alone() -> None:
    assert not RoundingEmulationPass()(traced_graph()).modified
