"""The uint8 edges: fires, refuses near misses, changes no label and costs no kernel."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from engines.audit import Audit, audit_engine
from engines.openvino_runtime import compile_model
from engines.target import Target
from engines.trt_builder import build_engine
from export.passes import deploy_passes
from export.passes.uint8_edges import Uint8EdgesPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images

UINT8, FP16, FP32 = ir.DataType.UINT8, ir.DataType.FLOAT16, ir.DataType.FLOAT


def deploy(precision: str, batch: int | None, edges: bool = True) -> ir.Model:
    """Return a tiny model's graph as it is shipped, or as it was before its uint8 edges."""
    model = traced_graph(batch=batch)
    for graph_pass in deploy_passes(precision):
        if edges or not isinstance(graph_pass, Uint8EdgesPass):
            graph_pass(model)
    return model


def readers(value: ir.Value) -> set[str]:
    return {use.node.op_type for use in value.uses()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_images_feed_a_cast_and_labels_leave_by_fp16(precision: str) -> None:
    before = deploy(precision, None, edges=False)
    assert readers(before.graph.inputs[0]) == {"Cast", "Shape"}
    model = deploy(precision, None)
    image, labels = model.graph.inputs[0], model.graph.outputs[0]
    (use,) = image.uses()
    assert (use.node.op_type, use.node.outputs[0].dtype) == (
        "Cast", FP32 if precision == "fp32" else FP16,
    )  # fmt: skip
    assert labels.dtype == UINT8
    assert [value.dtype for value in labels.producer().inputs] == [FP16]
    assert not Uint8EdgesPass()(model).modified


def test_labels_stay_on_onnx_runtime_and_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    images = random_images(3, 64, 64)
    found = []
    for edges in (False, True):
        model = deploy("fp16", None, edges)
        path = tmp_path / f"{edges}.onnx"
        ir.save(model, path)
        compiled = compile_model(path)
        found.append((run_graph(model, images)[0], compiled(images)[0]))
    (old, old_openvino), (new, new_openvino) = found
    assert len(np.unique(new)) > 1
    assert new.dtype == new_openvino.dtype == np.uint8
    assert (old == new).all()
    assert (old_openvino == new_openvino).all()


def test_every_label_is_exact() -> None:
    labels = ir.Value(name="x", shape=ir.Shape([256]), type=ir.TensorType(ir.DataType.INT64))
    cast = ir.node("Cast", [labels], {"to": UINT8}, name="cast")
    cast.outputs[0].name, cast.outputs[0].shape = "y", labels.shape
    cast.outputs[0].type = ir.TensorType(UINT8)
    graph = ir.Graph([labels], cast.outputs, nodes=[cast], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    assert Uint8EdgesPass()(model).modified
    assert [node.op_type for node in model.graph] == ["Cast", "Cast"]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (got,) = session.run(None, {"x": np.arange(256)})
    assert (got == np.arange(256)).all()


def test_int32_labels_and_fp32_pixels_stay() -> None:
    model = deploy("fp32", 1)
    label_cast = model.graph.outputs[0].producer()
    label_cast.attributes["to"] = ir.AttrInt64("to", ir.DataType.INT32)
    label_cast.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    assert not Uint8EdgesPass()(model).modified


@pytest.mark.trt_rtx
def test_no_kernel_and_no_byte_more(tmp_path: Path) -> None:
    """BF16 takes the detour at both edges."""
    pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")

    def audit(edges: bool) -> Audit:
        path = tmp_path / f"{edges}.onnx"
        ir.save(deploy("bf16", 1, edges), path)
        return audit_engine(build_engine(path, Target.TRT_RTX, ("SM89",), progress=False), path)

    before, after = audit(False), audit(True)
    assert after.kernels == before.kernels
    assert after.traffic_mb == before.traffic_mb
