"""Engines that an artifact lacks for this machine are built from its ONNX file, or nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines import rebuild, trt_runtime
from engines.audit import AuditError
from engines.rebuild import fit_artifact
from engines.runtime import find_entry, open_runtime
from engines.segment import main
from engines.target import Target, cannot_run_reason, installed_version, missing_reason
from export.manifest import BuiltTarget, Manifest, ManifestError, hash_file
from segvit.cli import run_main
from tests.engines.conftest import Writer

pytest.importorskip("openvino")
NO_GPU = cannot_run_reason(Target.TRT_RTX) is not None
STALE = BuiltTarget("trt-rtx", "1.0.0.0", ("SM86", "SM89"), "trt-rtx-sm86-sm89.engine")


def add_stale_engine(folder: Path) -> None:
    """List an engine of an older version, of no use but for its name."""
    (folder / STALE.file).write_bytes(b"engine")
    files = {STALE.file: hash_file(folder / STALE.file)}
    Manifest.read(folder).with_targets((STALE,), (), files).write(folder)


def test_a_target_that_was_not_built_is_added(artifact: Writer, images: np.ndarray) -> None:
    folder, said = artifact(), list[str]()
    before = [(folder / name).read_bytes() for name in ("manifest.json", "model.onnx")]
    digest = hash_file(folder / "manifest.json")
    assert fit_artifact(folder, "openvino", report=said.append) is Target.OPENVINO
    assert said == [f"rebuilding: '{folder}' holds no openvino engine, only ort"]
    manifest = Manifest.read(folder)
    assert [entry.target for entry in manifest.targets] == ["ort", "openvino"]
    assert manifest.targets[1].version == installed_version(Target.OPENVINO)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["engines.json", "manifest.json", "model.onnx"]
    assert [(folder / name).read_bytes() for name in names[1:]] == before
    with open_runtime(folder, "openvino", threads=1, digest=digest) as runtime:
        runtime.infer(images[:1])


def test_a_pinned_artifact_is_rebuilt_and_opens_by_its_pin(
    artifact: Writer, images: np.ndarray
) -> None:
    folder = artifact()
    digest = hash_file(folder / "manifest.json")
    for _ in range(2):
        with open_runtime(
            folder, "openvino", threads=1, rebuild=True, digest=digest.upper()
        ) as runtime:
            runtime.infer(images[:1])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ManifestError, match=rf"expected digest {'b' * 64}, got {digest}; copy"):
        open_runtime(folder, "trt", rebuild=True, digest="b" * 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_added_to_another_artifact_is_refused_with_the_fix(
    artifact: Writer, images: np.ndarray
) -> None:
    folder = artifact()
    fit_artifact(folder, "openvino")
    other = replace(Manifest.read(folder), warnings=("built again",), targets=(), files={})
    other.write(folder)
    with pytest.raises(ManifestError, match=r"engines\.json' belongs to another artifact: .*; del"):
        open_runtime(folder, "ort")


def test_what_fits_is_left_alone(artifact: Writer) -> None:
    folder = artifact()
    before = (folder / "manifest.json").read_bytes()
    assert fit_artifact(folder, "ort") is None
    assert fit_artifact(folder, device="cpu") is None
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_what_cannot_run_here_is_left_to_the_opener(artifact: Writer) -> None:
    folder = artifact()
    add_stale_engine(folder)
    assert fit_artifact(folder, "trt-rtx") is None
    with pytest.raises(ValueError, match=r"'trt-rtx' cannot run here: .* an NVIDIA GPU"):
        open_runtime(folder, "trt-rtx", rebuild=True)
    with open_runtime(folder, rebuild=True, threads=1) as runtime:
        assert runtime.target is Target.ORT


@pytest.mark.trt_rtx
def test_an_engine_of_another_version_is_replaced(
    artifact: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = missing_reason(Target.TRT_RTX)
    if reason is not None:
        pytest.skip(reason)
    folder, said = artifact(precision="fp16"), list[str]()
    add_stale_engine(folder)
    # The compiler is the real one; only the GPU that it compiles for is not here.
    monkeypatch.setattr(rebuild, "cannot_run_reason", lambda target: None)
    monkeypatch.setattr(rebuild, "own_compute_capability", lambda device: "SM89")
    monkeypatch.setattr(trt_runtime, "own_compute_capability", lambda device: "SM89")
    version = installed_version(Target.TRT_RTX)
    assert fit_artifact(folder, "trt-rtx", report=said.append) is Target.TRT_RTX
    assert said[0] == (
        f"rebuilding: '{folder / STALE.file}' was built by trt-rtx 1.0.0.0, installed is {version}"
    )
    assert said[1].startswith("trt-rtx SM89: ")
    manifest = Manifest.read(folder)
    entry = find_entry(folder, manifest, Target.TRT_RTX, "SM89")
    assert (entry.file, entry.version) == ("trt-rtx-sm89.engine", version)
    assert find_entry(folder, manifest, Target.TRT_RTX, "SM86") == STALE  # another machine's
    assert hash_file(folder / entry.file) == manifest.files[entry.file]
    assert fit_artifact(folder, "trt-rtx", report=said.append) is None


def test_a_changed_onnx_file_is_not_built_from(artifact: Writer) -> None:
    folder = artifact()
    before = (folder / "manifest.json").read_bytes()
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(ManifestError, match=r"model\.onnx' was changed after it was built"):
        fit_artifact(folder, "openvino")
    assert (folder / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]


def test_the_command_rebuilds_and_goes_on(
    artifact: Writer, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact()
    cv2.imwrite(str(tmp_path / "a.png"), images[0])
    arguments = ["--artifact", folder, "--target", "openvino", tmp_path / "a.png", "--out",
                 tmp_path / "out"]  # fmt: skip
    for extra, code in (((), 1), (("--rebuild",), 0), ((), 0)):
        with pytest.raises(SystemExit) as end:
            run_main(main, [*map(str, arguments), *extra])
        assert int(end.value.code or 0) == code
    printed = capsys.readouterr()
    assert "holds no openvino engine, only ort; build it: python -m engines.build" in printed.err
    assert printed.out.count("rebuilding: ") == 1
    assert (tmp_path / "out" / "a.labels.png").is_file()


@pytest.mark.trt_rtx
def test_a_refused_rebuild_names_the_command_whose_options_help(
    artifact: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is FP32 and its manifest says FP16, which the audit refuses."""
    reason = missing_reason(Target.TRT_RTX)
    if reason is not None:
        pytest.skip(reason)
    folder = artifact(precision="fp32")
    replace(Manifest.read(folder), precision="fp16").write(folder)
    monkeypatch.setattr(rebuild, "cannot_run_reason", lambda target: None)
    monkeypatch.setattr(rebuild, "own_compute_capability", lambda device: "SM89")
    monkeypatch.setattr(trt_runtime, "own_compute_capability", lambda device: "SM89")
    with pytest.raises(AuditError, match=r"options of python -m engines\.build --artifact .*rtx"):
        fit_artifact(folder, "trt-rtx")
    assert not (folder / "engines.json").exists()
