"""What TensorRT documents that it takes: our graphs pass, and each planted node is named."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from calibration.images import CalibrationImages
from calibration.quantization import Calibration, calibrate, quantise_model
from calibration.scheme import find_scheme
from export.deploy import DeployModel
from export.passes import cast_beside_quantised, deploy_passes
from export.passes.uint8_edges import Uint8EdgesPass
from export.slide_model import SlideModel
from export.trace import trace_model
from export.trt_hygiene import check_hygiene, list_violations
from export.trt_operators import OPERATORS
from tests.graphs import traced_graph
from tests.tiny_models import make_config, make_dino_config, make_model, random_images

FLOAT, HALF, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
UINT8, INT8, INT32, INT64 = (
    TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64,
)  # fmt: skip


def assert_clean(model: ir.Model, folder: Path) -> None:
    path = folder / "model.onnx"
    ir.save(model, path)
    assert list_violations(path) == []


@pytest.mark.parametrize(("head", "batch"), [("cascade", None), ("shrunk", 1)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_is_allowed(
    head: str, batch: int | None, precision: str, tmp_path: Path
) -> None:
    model = traced_graph(head, batch=batch)
    for graph_pass in deploy_passes(precision):
        graph_pass(model)
    assert_clean(model, tmp_path)


@pytest.mark.parametrize("kind", ["slide", "dinov3"])
def test_every_other_graph_is_allowed(kind: str, tmp_path: Path) -> None:
    """A sliding window over resized images, and rotary positions with a dynamic batch.

    Every build of other tests is checked too, since `export.build` checks its own graph.
    """
    if kind == "slide":
        model = make_model(make_config("single", depth=2, tap_blocks=(1,), num_classes=300))
        traced = trace_model(SlideModel(model, (64, 96), resize_from=(60, 70)), (60, 70), 1)
    else:
        model = make_model(make_dino_config("dinov3", "single", depth=2, tap_blocks=(1,)))
        traced = trace_model(DeployModel(model, (64, 64)), (64, 64), None)
    for precision in ("fp32", "fp16", "bf16"):
        graph = traced.clone()
        for graph_pass in deploy_passes(precision):
            graph_pass(graph)
        assert_clean(graph, tmp_path)


@pytest.mark.parametrize(
    ("precision", "float_type"),
    [("int8", "bf16"), ("fp8", "fp16")],
)
def test_quantised_graphs_are_allowed(precision: str, float_type: str, tmp_path: Path) -> None:
    model = traced_graph()
    for graph_pass in deploy_passes("fp32" if float_type == "bf16" else float_type):
        graph_pass(model)
    scheme = find_scheme(precision, attention=precision == "fp8")
    images = CalibrationImages(random_images(2, 64, 64), "noise")
    ranges = calibrate(model, scheme, Calibration(images, progress=False))
    quantise_model(model, scheme, ranges)
    if float_type == "bf16":
        cast_beside_quantised(model.graph)(model)
        Uint8EdgesPass()(model)
    assert_clean(model, tmp_path)


def write(folder: Path, *nodes: onnx.NodeProto, source: int = FLOAT, result: int = FLOAT) -> Path:
    """Write a graph of nodes between `x` (2, 3, 4, 4) and `y`, with the constants they may read."""
    shape = [2, 3, 4, 4]
    constants = [
        helper.make_tensor("axes", INT64, [1], [1]),
        helper.make_tensor("scale", FLOAT, [], [0.1]),
        helper.make_tensor("zero", INT8, [], [0]),
        helper.make_tensor("three", INT8, [], [3]),
        helper.make_tensor("scales", FLOAT, [4], [1, 1, 2, 2]),
        helper.make_tensor("norm", FLOAT, [4], [1, 1, 1, 1]),
    ]
    values = (
        helper.make_tensor_value_info("x", source, shape),
        helper.make_tensor_value_info("y", result, None),
    )
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:], constants)
    path = folder / "planted.onnx"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def node(op: str, inputs: str, name: str = "planted", outputs: str = "y", **attributes: object
         ) -> onnx.NodeProto:  # fmt: skip
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), name=name, **attributes)


PLANTED = {
    "the shape of uint8": (
        [node("Shape", "x")], UINT8, INT64, "reads uint8 'x', which may feed a Cast alone",
    ),
    "uint8 moved": (
        [node("Transpose", "x", outputs="t"), node("Cast", "t", "last", to=FLOAT)], UINT8, FLOAT,
        "reads uint8 'x', which may feed a Cast alone",
    ),
    "uint8 to BF16": (
        [node("Cast", "x", to=BF16)], UINT8, BF16, "casts uint8 'x' to bfloat16, expected FP32 or",
    ),
    "labels of int64": (
        [node("Cast", "x", to=UINT8)], INT64, UINT8,
        "gives uint8 'y' of int64, expected labels to leave by a Cast to FP16",
    ),
    "uint8 that is read": (
        [node("Cast", "x", outputs="u", to=UINT8), node("Cast", "u", "last", to=FLOAT)],
        HALF, FLOAT, "gives uint8 'u' inside the graph",
    ),
    "an operator nobody looked up": (
        [node("Erf", "x")], FLOAT, FLOAT, r"trt_operators.py\) says nothing of it",
    ),
    "another domain's operator": (
        [node("Gelu", "x", domain="com.microsoft")], FLOAT, FLOAT, "says nothing of it",
    ),
    "a datatype": (
        [node("Sigmoid", "x")], TensorProto.DOUBLE, TensorProto.DOUBLE,
        "input 0 'x' is double, expected bfloat16 or float16 or float32",
    ),
    "an attribute's value": (
        [node("Resize", "x  scales", mode="cubic")], FLOAT, FLOAT,
        "attribute mode is 'cubic', expected 'nearest' or 'linear'",
    ),
    "an attribute": (
        [node("ArgMax", "x", axis=1, select_last_index=1)], FLOAT, INT64,
        "attribute select_last_index is 1, expected 0",
    ),
    "axes that are computed": (
        [node("Shape", "x", "shape", "s", start=0, end=1), node("ReduceMean", "x s")], FLOAT, FLOAT,
        "input 1 's' is computed, expected a constant",
    ),
    "a zero point": (
        [node("QuantizeLinear", "x scale three")], FLOAT, INT8, "zero point 'three' is not zero",
    ),
    "a second output": (
        [node("LayerNormalization", "x norm norm", outputs="y mean", axis=-1)], FLOAT, FLOAT,
        "expected at most 1 output, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_node_is_named(what: str, tmp_path: Path) -> None:
    nodes, source, result, reason = PLANTED[what]
    path = write(tmp_path, *nodes, source=source, result=result)
    operator = next(n.op_type for n in nodes if n.name == "planted")
    with pytest.raises(ValueError, match=rf"node 'planted' \({operator}\): .*{reason}"):
        check_hygiene(path)


def test_what_is_planted_is_all_that_is_wrong(tmp_path: Path) -> None:
    """The same nodes as they are allowed: what is refused above is the one thing planted."""
    allowed = [
        ([node("Cast", "x", to=FLOAT)], UINT8, FLOAT),
        ([node("Cast", "x", to=UINT8)], HALF, UINT8),
        ([node("Cast", "x", to=INT32)], INT64, INT32),
        ([node("Sigmoid", "x")], BF16, BF16),
        ([node("Resize", "x  scales", mode="linear")], FLOAT, FLOAT),
        ([node("ArgMax", "x", axis=1, select_last_index=0)], FLOAT, INT64),
        ([node("ReduceMean", "x axes")], FLOAT, FLOAT),
        ([node("QuantizeLinear", "x scale zero")], FLOAT, INT8),
        ([node("LayerNormalization", "x norm norm", axis=-1)], FLOAT, FLOAT),
    ]
    for nodes, source, result in allowed:
        assert list_violations(write(tmp_path, *nodes, source=source, result=result)) == []


def test_weights_are_not_read(tmp_path: Path) -> None:
    """Of a large constant the type counts; its values need not be there."""
    weight = onnx.numpy_helper.from_array(np.ones((128, 128), np.float32), "weight")
    graph = helper.make_graph(
        [node("MatMul", "x weight")], "g", [helper.make_tensor_value_info("x", FLOAT, [1, 128])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 128])], [weight],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="gone", size_threshold=0)
    (tmp_path / "gone").unlink()
    assert list_violations(path) == []


def test_every_fact_names_its_documents() -> None:
    assert all(operator.sources and all(operator.sources) for operator in OPERATORS.values())
    assert not any("uint8" in row.types for name, row in OPERATORS.items() if name != "Cast")
