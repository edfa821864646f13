"""`--fused-tail` in a build: TensorRT-RTX stands in for TensorRT, and other layers for the plugin.

What TensorRT itself makes of the plugin is not shown: that needs TensorRT and a GPU.
"""

from __future__ import annotations

import sys
import threading
from math import isqrt
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engines import fused_tail_plugin, target, trt_builder
from engines.audit import AuditError, audit_engine, audit_kernels, check_audit
from engines.build import main
from engines.fused_tail_plugin import is_fused_tail
from engines.graph import read_graph
from engines.rebuild import fit_artifact
from engines.target import Target, missing_reason
from engines.trt_builder import BuildOptions, build_engine
from export.manifest import Manifest
from segvit.cli import run_main
from tests.engines.conftest import Writer

trt = pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx
LACKS_TRT = missing_reason(Target.TRT) is not None
EXPERIMENTAL = "experimental: one Triton kernel in place of the tail (--fused-tail)"


def run(*arguments: str | Path) -> int:
    """Return the exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as end:
        run_main(main, [str(argument) for argument in arguments])
    return int(end.value.code or 0)


def add_layers(network: Any, tensors: tuple[Any, Any], aot: bool) -> Any:
    """Add what gives labels as the plugin would: mix and argmax on the grid, then a resize."""
    assert aot
    classes, masks = tensors
    operations = (trt.MatrixOperation.TRANSPOSE, trt.MatrixOperation.NONE)
    mix = network.add_matrix_multiply(classes, operations[0], masks, operations[1])
    best = network.add_topk(mix.get_output(0), trt.TopKOperation.MAX, 1, 1 << 1)
    plane = network.add_shuffle(best.get_output(1))
    plane.reshape_dims = (1, isqrt(masks.shape[2]), isqrt(masks.shape[2]))
    floats = network.add_cast(plane.get_output(0), trt.float32)
    resized = network.add_resize(floats.get_output(0))
    resized.shape = (1, 64, 64)
    return network.add_cast(resized.get_output(0), trt.int32)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """TensorRT-RTX under TensorRT's name, beside GPUs of SM89 and SM90; lists GPUs and threads."""
    make_config = trt.Builder.create_builder_config
    chosen: list[tuple[int, str]] = []

    def configure(builder: Any) -> Any:
        config = make_config(builder)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        return config

    def choose(device: int) -> tuple[int]:
        chosen.append((device, threading.current_thread().name))
        return (0,)

    cudart = SimpleNamespace(cudaSetDevice=choose)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setattr(trt.Builder, "create_builder_config", configure)
    monkeypatch.setattr(trt.INetworkDefinition, "add_plugin", add_layers, raising=False)
    monkeypatch.setattr(fused_tail_plugin, "register_plugin", lambda *_: lambda *tensors: tensors)
    monkeypatch.setattr(fused_tail_plugin, "_compile", lambda *_: None)
    monkeypatch.setattr(trt_builder, "import_cudart", lambda: cudart)
    monkeypatch.setattr(target, "missing_gpu_reason", lambda need: None)
    monkeypatch.setattr(target, "find_compute_capability", lambda device: ("SM89", "SM90")[device])
    return chosen


@pytest.mark.usefixtures("tensorrt")
def test_the_audit_demands_the_plugin_and_nothing_of_what_it_replaces(artifact: Writer) -> None:
    path = artifact(precision="fp16") / "model.onnx"
    plain, fused = (
        build_engine(path, Target.TRT, ("SM89",), BuildOptions(fused_tail=asked), progress=False)
        for asked in (False, True)
    )
    audit = audit_engine(fused, path)
    check_audit(audit, "fp16", fused_tail=True)
    assert audit.parts["tail"].kernels == 1
    assert "3 of 3 attentions fused, tail fused, GEMMs" in audit.describe()
    message = "labels are not those of the plugin's one kernel: [2-9] kernels make the tail"
    with pytest.raises(AuditError, match=message):
        check_audit(audit_engine(plain, path), "fp16", fused_tail=True)
    plugin = tuple(filter(is_fused_tail, fused.kernels))
    both = audit_kernels((*plain.kernels, *plugin), read_graph(path))
    with pytest.raises(AuditError, match="--fused-tail was asked for"):
        check_audit(both, "fp16", fused_tail=True)


def test_it_is_built_said_to_be_experimental_and_rebuilt(
    artifact: Writer, tensorrt: list[tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = artifact(precision="fp16"), list[str]()
    command = ("--artifact", folder, "--target", "trt", "ort")
    assert run(*command, "--fused-tail") == 0
    out = capsys.readouterr().out
    assert "trt SM89: " in out
    assert "tail fused" in out
    (warning,) = Manifest.read(folder).warnings
    assert warning.startswith(f"'trt-sm89.engine': {EXPERIMENTAL}")
    assert f"warning: {warning}" in out
    assert tensorrt == []
    assert fit_artifact(folder, "trt", device=1, report=said.append) is Target.TRT
    assert "holds trt engines for SM89, and this GPU is SM90" in said[0]
    assert said[1].startswith("trt SM90: ")
    assert "tail fused" in said[1]
    assert tensorrt == [(1, "engine build")]  # CUDA's choice is a thread's own
    second = warning.replace("sm89", "sm90")
    assert Manifest.read(folder).warnings == (warning, second)
    assert fit_artifact(folder, "trt-rtx", report=said.append) is Target.TRT_RTX
    assert "tail fused" not in said[-1]
    assert run(*command) == 0  # without the option, of which nothing is left then
    assert "tail fused" not in capsys.readouterr().out
    assert Manifest.read(folder).warnings == (second,)


@pytest.mark.usefixtures("tensorrt")
def test_what_cannot_have_it_is_refused(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(precision="fp16", scores=True)
    before = sorted(folder.iterdir())
    for names, message in (
        (("trt",), "a graph that gives labels of whole images at the training crop, and this is"),
        (
            ("trt-rtx", "ort"),
            "expected --target trt, which alone takes the kernel, got trt-rtx ort",
        ),
    ):
        assert run("--artifact", folder, "--fused-tail", "--target", *names) == 1
        assert message in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("tensorrt")
def test_without_triton_the_extra_is_named(
    artifact: Writer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert run("--artifact", artifact(precision="fp16"), "--fused-tail") == 1
    error = capsys.readouterr().err
    assert "error: triton is not installed; install it with: pip install 'segvit-deploy[" in error


@pytest.mark.skipif(not LACKS_TRT, reason="this machine builds with TensorRT")
@pytest.mark.parametrize("names", [(), ("--target", "auto"), ("--target", "trt")])
def test_asked_for_and_not_obtained_is_an_error(
    artifact: Writer, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    assert run("--artifact", artifact(precision="fp16"), "--fused-tail", *names) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --fused-tail: target 'trt', which alone takes the kernel, ")
    assert error.count("\n") == 1
