"""OpenVINO runs the exported file as it is written, and says what it cannot."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines import openvino_runtime
from engines.devices import parse_device
from engines.openvino_runtime import OpenVinoEngine, OpenVinoRuntimeError
from engines.runtime import open_runtime
from engines.target import Target, cannot_run_reason, installed_version, missing_reason
from export.build import main
from export.build_verification import _check_runtime
from export.class_parity import LEAST_PIXELS
from export.manifest import BuiltTarget, Manifest, ManifestError
from export.verify import ParityError
from segvit.shipped import shipped_checkpoint
from tests.engines.conftest import Writer

openvino = pytest.importorskip("openvino")


@pytest.fixture
def folder(artifact: Writer) -> Path:
    """An artifact for ONNX Runtime and OpenVINO."""
    return _offer(artifact())


def _offer(folder: Path) -> Path:
    manifest = Manifest.read(folder)
    entry = BuiltTarget("openvino", installed_version(Target.OPENVINO), (), "model.onnx")
    replace(manifest, targets=(*manifest.targets, entry)).write(folder)
    return folder


def test_it_builds_and_runs_anywhere() -> None:
    assert missing_reason(Target.OPENVINO) is None
    assert cannot_run_reason(Target.OPENVINO) is None
    assert installed_version(Target.OPENVINO)[:2] == "20"
    assert "-" not in installed_version(Target.OPENVINO)


@pytest.mark.parametrize("options", [{}, {"precision": "fp16"}, {"scores": True}])
def test_it_gives_what_onnx_runtime_gives(
    artifact: Writer, images: np.ndarray, options: dict[str, object]
) -> None:
    folder = _offer(artifact(**options))
    with open_runtime(folder, "openvino", threads=1) as ours, open_runtime(folder, "ort") as theirs:
        assert ours.target is Target.OPENVINO
        assert (ours.input, ours.output, ours.classes) == (
            theirs.input, theirs.output, theirs.classes,
        )  # fmt: skip
        got, expected = ours.infer(images[:1]), theirs.infer(images[:1])
        first = got.copy()
        ours.infer(images[1:2])
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, first)  # the caller's own, whatever runs next
    if "scores" in options:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    else:
        assert (got == expected).mean() >= 0.999


def test_a_dynamic_batch_takes_its_range(artifact: Writer, images: np.ndarray) -> None:
    with open_runtime(_offer(artifact(batch="batch")), "openvino") as runtime:
        together = runtime.infer(images)
        apart = np.concatenate([runtime.infer(image[None]) for image in images])
    np.testing.assert_array_equal(together, apart)


def test_every_instance_has_a_stream_of_its_own(folder: Path) -> None:
    manifest, cpu = Manifest.read(folder), parse_device("cpu")
    alone = OpenVinoEngine(folder, manifest, cpu)
    assert (alone.compiled.get_property("NUM_STREAMS"), alone.notes) == (1, ())
    if os.cpu_count() != 1:
        pair = OpenVinoEngine(folder, manifest, cpu, threads=2, instances=2)
        assert (pair.compiled.get_property("NUM_STREAMS"), pair.notes) == (2, ())
    with open_runtime(folder, "openvino", threads=1, instances=2) as starved:
        assert starved.notes == ("openvino: 1 of 2 instances run at once, for want of threads",)


def test_what_cannot_be_opened(folder: Path, artifact: Writer) -> None:
    with pytest.raises(ValueError, match="'cuda:0': OpenVINO runs on the CPU here"):
        open_runtime(folder, "openvino", "cuda:0")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")
    with pytest.raises(ManifestError, match=r"model\.onnx"):
        open_runtime(folder, "openvino")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="holds no openvino engine, only ort"):
        open_runtime(artifact(), "openvino")


def test_a_file_it_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx' does not load on OpenVINO: "):
        openvino_runtime.compile_model(path)


def test_its_own_failures_are_one_error(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with open_runtime(folder, "openvino") as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(openvino.InferRequest, "start_async", fail)
            with pytest.raises(OpenVinoRuntimeError, match="failed to run the model: out of mem"):
                runtime.infer(images[:1])
        assert runtime.infer(images[:1]).shape == (1, 64, 64)


@pytest.mark.slow
def test_an_int8_build_runs_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint", str(shipped_checkpoint("vit_t_landcover")), "--int8", "--target",
               "openvino", "--num-calibration-images", "4", "--num-images", "1"]  # fmt: skip
    assert main([*options, "--out", str(tmp_path / "int8")]) == 0
    assert "openvino: runs, 0.99" in capsys.readouterr().out
    manifest = Manifest.read(tmp_path / "int8")
    assert [entry.target for entry in manifest.targets] == ["openvino"]


def test_a_runtime_that_gives_other_labels_fails_the_build(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object) -> np.ndarray:
        return np.full((1, 64, 64), 99, np.uint8)

    manifest, said = Manifest.read(folder), list[str]()
    arguments = argparse.Namespace(output="labels", precision="fp32", random_weights=False)
    with open_runtime(folder, "ort") as runtime:
        verified = runtime.infer(images[:1]).astype(np.int64)
    # The step alone: the build around it takes longer than all of these tests together.
    check = partial(_check_runtime, arguments, manifest, folder, images[:1], verified, said.append)
    assert check() == ()
    assert [line[:12] for line in said] == ["ort: runs, 1", "openvino: ru"]
    monkeypatch.setattr(openvino_runtime.OpenVinoInstance, "run", other)
    with pytest.raises(ParityError, match=r"'openvino' gives 0\.00000 of the labels that were ver"):
        check()


@pytest.mark.parametrize("pixels", [29, 57])
def test_a_runtime_that_loses_a_class_whole_fails_the_build(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    """Of 1.4 % of the pixels, fewer than INT8's gate on all of them allows to change."""
    manifest = Manifest.read(folder)
    entries = tuple(entry for entry in manifest.targets if entry.target == "openvino")
    arguments = argparse.Namespace(output="labels", precision="int8", random_weights=False)
    verified = np.full((1, 64, 64), 2)
    found = verified.astype(np.uint8)
    verified.reshape(-1)[:pixels] = 5
    monkeypatch.setattr(openvino_runtime.OpenVinoInstance, "run", lambda *_: found)
    check = partial(_check_runtime, arguments, replace(manifest, targets=entries), folder,
                    images[:1], verified, lambda _: None)  # fmt: skip
    assert check(found.astype(np.int64)) == ()  # PyTorch does not find it either
    if pixels < LEAST_PIXELS:
        assert check() == ()
        return
    with pytest.raises(ParityError, match="'openvino' loses class 'barren' whole: no pixel of it"):
        check()
    assert check(shares=np.array([0.25])) == ()  # 14 pixels of an image enlarged twice


@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "BFLOAT16"])
def test_bf16_is_computed_where_the_file_holds_it(tmp_path: Path, dtype: str) -> None:
    kind = getattr(onnx.TensorProto, dtype)
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["low"], to=kind),
        onnx.helper.make_node("Add", ["low", "low"], ["sum"]),
        onnx.helper.make_node("Cast", ["sum"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (2,)) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "sum", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 20)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    compiled = openvino_runtime.compile_model(path, threads=1)
    wanted = dtype == "BFLOAT16" and openvino_runtime.computes_bf16()
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert hint == ("bf16" if wanted else "f32")


@pytest.mark.parametrize(
    ("precision", "command"), [("bf16", ""), ("int8", "export.build --float-type=bf16")]
)
def test_bf16_that_a_cpu_lacks_is_said(folder: Path, precision: str, command: str) -> None:
    manifest = Manifest.read(folder)  # of a graph without BF16, as it is computed there
    said = replace(manifest, precision=precision, command=command)
    notes = OpenVinoEngine(folder, said, parse_device("cpu"), 1).notes
    assert notes == ("openvino: this CPU has no BF16 instructions: BF16 is computed in FP32",)


def test_signals_are_survived_after_a_runtime_is_freed_elsewhere(folder: Path) -> None:
    """On the thread that loaded OpenVINO; without AMX this cannot fail."""
    code = f"""
import signal, subprocess, sys, threading
from engines.runtime import open_runtime
signal.signal(signal.SIGCHLD, lambda *_: None)
runtimes = [open_runtime({str(folder)!r}, "openvino")]
def free():
    runtimes.pop().close()
thread = threading.Thread(target=free)
thread.start()
thread.join()
subprocess.run([sys.executable, "-c", "pass"], check=True)
print("alive")
"""
    run = [sys.executable, "-X", "faulthandler", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
