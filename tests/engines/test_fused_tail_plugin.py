"""The plugin against TensorRT's real bindings, as far as they go without its library.

What an engine does with the plugin is not shown: that needs TensorRT and a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from engines import fused_tail_plugin
from engines.fused_tail import TailShape, compile_tail
from engines.fused_tail_plugin import (
    TailInputs,
    drop_scratch_parameters,
    find_tail,
    replace_tail,
)
from export.deploy import DeployModel
from export.passes import deploy_passes
from export.trace import trace_model
from tests.engines.conftest import Writer, describe
from tests.engines.test_bindings_api import install_tensorrt, look_up
from tests.tiny_models import make_config, make_model

SHAPE = TailShape(7, 7, 8, (4, 4), (64, 64))
# Registers the plugin and has it compiled, in a process whose `tensorrt` are the bindings alone.
REGISTER = """
import json, sys
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from engines.fused_tail import TailShape
from engines.fused_tail_plugin import register_plugin
shape = TailShape(7, 7, 8, (4, 4), (64, 64))
made = register_plugin(trt, shape, "SM89")
assert register_plugin(trt, shape, "SM89") is made
import tensorrt_bindings.plugin as trtp
tensors = [
    trtp.TensorDesc(trtp.ShapeExprs.from_tuple(sizes), trt.float16)
    for sizes in ((2, 7, 8), (2, 7, 16))
]
labels = made.register_func(*tensors)
name, ptx, launch, extra = made.aot_impl_func(*tensors, (labels,), 0)
print(json.dumps([name, ptx, len(extra), len(labels.shape_expr), str(labels.dtype)]))
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_config("single", depth=1, tap_blocks=(0,), decoder_layers=1)  # traced soonest
    size = (config.image_size, config.image_size)
    model = trace_model(DeployModel(make_model(config), size), size, 1)
    for each in deploy_passes("fp16"):
        each(model)
    model.metadata_props["classes"] = json.dumps(config.class_names)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    ir.save(model, path)
    return path


def test_the_tail_of_a_deploy_graph_is_found(graph: Path) -> None:
    tail = find_tail(graph)
    assert tail.shape == SHAPE
    assert "classifier" in tail.classes
    assert tail.masks.startswith("head/")


def test_labels_that_something_follows_are_refused(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    model.graph.node[-1].name = "restore/Cast"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model.onnx': --fused-tail replaces .* this is none"):
        find_tail(tmp_path / "model.onnx")


def test_inputs_of_two_types_are_refused(segmenter: Writer, tmp_path: Path) -> None:
    model = onnx.load(segmenter(float_head=True))
    (cast,) = (node for node in model.graph.node if node.name == "head/from_float")
    cast.attribute[0].i = onnx.TensorProto.FLOAT
    onnx.helper.set_model_props(model, describe().metadata())
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="'head/from_float' in FLOAT and 'head/masks' in FLOAT16;"):
        find_tail(tmp_path / "model.onnx")


@pytest.mark.trt_rtx
def test_a_network_gives_the_labels_of_what_replaces_its_tail(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX has TensorRT's networks but no plugins: other layers stand in for ours."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph))
    taken = []

    class Network:
        def __getattr__(self, name: str) -> Any:
            return getattr(network, name)

        def add_plugin(self, tensors: tuple[Any, Any], aot: bool) -> Any:
            assert aot
            taken.extend(tuple(tensor.shape) for tensor in tensors)
            largest = network.add_topk(tensors[1], trt.TopKOperation.MAX, 1, 1 << 1)
            plane = network.add_shuffle(largest.get_output(1))
            plane.reshape_dims = (1, 4, 4)
            resized = network.add_resize(
                network.add_cast(plane.get_output(0), trt.float32).get_output(0)
            )
            resized.shape = (1, 64, 64)
            return network.add_cast(resized.get_output(0), trt.int32)

    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(fused_tail_plugin, "register_plugin", lambda *_: lambda *tensors: tensors)
    monkeypatch.setattr(fused_tail_plugin, "_compile", lambda *_: None)
    replace_tail(Network(), find_tail(graph), "SM89")
    assert taken == [(1, 7, 8), (1, 7, 16)]
    assert [network.get_output(0).name, tuple(network.get_output(0).shape)] == [
        "labels",
        (1, 64, 64),
    ]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
    with pytest.raises(ValueError, match="no tensor nowhere; it was parsed from another graph"):
        replace_tail(network, TailInputs("nowhere", find_tail(graph).masks, SHAPE), "SM89")


@pytest.mark.parametrize("version", ["10.16.0.72", "11.4.0.106"])
def test_the_bindings_take_the_plugin(
    request: pytest.FixtureRequest, tmp_path: Path, version: str
) -> None:
    pytest.importorskip("triton", reason="the extra fused-tail is not installed")
    cache = request.config.cache
    assert cache is not None
    bindings, stubs = install_tensorrt(cache.mkdir("nvidia-bindings"), version, tmp_path)
    names: dict[str, set[str]] = {
        "INetworkDefinition.add_plugin": {"aot"},
        "INetworkDefinition.get_layer": set(),
        "INetworkDefinition.num_layers": set(),
        "ILayer.get_input": set(),
        "ILayer.get_output": set(),
        "ILayer.num_outputs": set(),
        "ILayer.set_input": set(),
        "ILayer.name": set(),
        "ILayer.type": set(),
        "ILayer.metadata": set(),
        "ITensor.dtype": set(),
    }
    _, found = look_up("tensorrt_bindings", bindings, stubs, names)
    assert found == {key: [] for key in names}
    done = subprocess.run(
        [sys.executable, "-c", REGISTER],
        env={**os.environ, "LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(bindings)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, ptx, extra, rank, dtype = json.loads(done.stdout.splitlines()[-1])
    assert f".entry {name}(" in ptx
    assert (extra, rank, dtype) == (0, 3, "DataType.INT32")


def test_ptx_takes_the_three_tensors_alone(tmp_path: Path) -> None:
    """TensorRT passes no more, and a kernel that declares more reads past what it is given."""
    triton = pytest.importorskip("triton", reason="the extra fused-tail is not installed")
    kernel = compile_tail(SHAPE, "fp16", "SM89", label_type="i32")
    ptx = drop_scratch_parameters(kernel.ptx)
    declared = ptx[ptx.index(".entry") : ptx.index(".reqntid")]
    assert declared.count(".param") == 3
    path = tmp_path / "tail.ptx"
    path.write_text(ptx)
    assembler = [triton.knobs.nvidia.ptxas.path, "--gpu-name=sm_89", path, "-o", tmp_path / "cubin"]
    subprocess.run(assembler, check=True)
    reads = ptx.replace("{\n", "{\n ld.param.b64 %rd1, [tail_kernel_param_3];\n", 1)
    four = reads.replace(
        "tail_kernel_param_2\n", "tail_kernel_param_2,\n .param .u64 tail_kernel_param_3\n", 1
    )
    with pytest.raises(RuntimeError, match="got 4 parameters, read: tail_kernel_param_3"):
        drop_scratch_parameters(four)
