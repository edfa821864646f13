from __future__ import annotations

import contextlib
import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.build import main
from engines.runtime import open_runtime
from engines.target import Target, missing_reason
from export.manifest import Manifest, ManifestError, verify_file
from segvit.cli import run_main

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx
Writer = Callable[..., Path]
LACKS_TRT = missing_reason(Target.TRT) is not None


def run(*arguments: str | Path) -> int:
    """Return the exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as end:
        run_main(main, [str(argument) for argument in arguments])
    return int(end.value.code or 0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Let no file grow above so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_an_artifact_gains_an_engine(artifact: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    folder = artifact(precision="fp16")
    before = (folder / "manifest.json").read_bytes()
    digest = hashlib.sha256(before).hexdigest()
    assert main(["--artifact", str(folder), "--target", "trt-rtx",
                 "--compute-capability", "SM89", "--digest", digest]) == 0  # fmt: skip
    assert (folder / "manifest.json").read_bytes() == before
    manifest = Manifest.read(folder, digest)
    assert [entry.target for entry in manifest.targets] == ["ort", "trt-rtx"]
    for name in manifest.files:
        verify_file(folder, name, manifest)
    assert set(manifest.files) | {"manifest.json", "engines.json"} == set(content(folder))
    out = capsys.readouterr().out
    assert "building tiny in fp16 for trt-rtx" in out
    assert "3 of 3 attentions fused" in out
    assert out.splitlines()[-2:] == [f"wrote {folder / 'engines.json'}", f"digest {digest}"]


def test_a_second_build_replaces_its_own_engine_alone(artifact: Writer) -> None:
    folder = artifact(precision="fp16")
    for capability in ("SM89", "SM86", "SM89"):
        options = ["--target", "trt-rtx", "--compute-capability", capability]
        assert main(["--artifact", str(folder), *options]) == 0
    manifest = Manifest.read(folder)
    assert sorted(entry.file for entry in manifest.targets) == [
        "model.onnx", "trt-rtx-sm86.engine", "trt-rtx-sm89.engine",
    ]  # fmt: skip
    assert {entry.layers for entry in manifest.targets} == {
        None, "layers_trt-rtx.json", "layers_trt-rtx-sm86.json",
    }  # fmt: skip
    for name in manifest.files:
        verify_file(folder, name, manifest)


def test_an_engine_that_came_with_the_artifact_stays(artifact: Writer, tmp_path: Path) -> None:
    source, folder = artifact(precision="fp16") / "model.onnx", tmp_path / "new"
    options = ["--target", "trt-rtx", "--compute-capability", "SM89"]
    assert run("--onnx", source, "--out", folder, *options) == 0
    before, own = content(folder), Manifest.read(folder)
    for _ in range(2):  # the second time it replaces what the first added
        assert run("--artifact", folder, *options, "--digest", str(own.digest)) == 0
        manifest = Manifest.read(folder, own.digest)
        assert [(entry.file, entry.layers) for entry in manifest.targets] == [
            ("trt-rtx-sm89-added.engine", "layers_trt-rtx-sm89-added.json"),
        ]  # the one that it replaces is on the disk, as the manifest lists it
        for name in manifest.files:
            verify_file(folder, name, manifest)
    now = content(folder)
    assert {name: now[name] for name in before} == before
    assert set(now) - set(before) == {
        "engines.json", "trt-rtx-sm89-added.engine", "layers_trt-rtx-sm89-added.json",
    }  # fmt: skip


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_an_end_between_two_moves_leaves_files_as_they_are_listed(
    artifact: Writer, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    folder = artifact(precision="fp16", batch="batch")
    options = ["--artifact", str(folder), "--target", "trt-rtx", "--compute-capability", "SM89"]
    assert main(options) == 0
    left, replace_file = [moves], Path.replace

    def move(source: Path, target: Path) -> Path:
        if target.parent == folder and source.parent != folder:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return replace_file(source, target)

    monkeypatch.setattr(Path, "replace", move)
    with pytest.raises(KeyboardInterrupt):
        main([*options, "--batch", "1:1:2"])  # an engine of other bytes
    manifest = Manifest.read(folder)
    for name in manifest.files:
        verify_file(folder, name, manifest)


def test_another_artifact_than_the_one_of_the_digest_is_not_touched(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(precision="fp16")
    before = content(folder)
    assert run("--artifact", folder, "--digest", "a" * 64) == 1
    assert f"expected digest {'a' * 64}, got " in capsys.readouterr().err
    assert content(folder) == before


def test_the_batch_of_added_engines_is_kept(artifact: Writer) -> None:
    folder = artifact(precision="fp16", batch="batch")
    before = (folder / "manifest.json").read_bytes()
    assert run("--artifact", folder, "--target", "openvino", "--batch", "1:3:5") == 0
    assert Manifest.read(folder).batch == (1, 3, 5)
    assert (folder / "manifest.json").read_bytes() == before


def test_an_onnx_file_becomes_an_artifact(
    artifact: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = artifact(precision="fp16", batch="batch") / "model.onnx"
    out = tmp_path / "new"
    assert run("--onnx", source, "--out", out, "--batch", "1:2:4", "--json",
               "--compute-capability", "SM89") == 0  # fmt: skip
    printed = capsys.readouterr()
    manifest = Manifest.read(out)
    assert printed.out == (out / "manifest.json").read_text()
    assert printed.err.endswith(f"digest {manifest.digest}\n")
    assert "attentions fused" in printed.err
    assert manifest.model.name == "tiny"
    assert manifest.batch == (1, 2, 4)
    assert manifest.input.shape == ("batch", 64, 64, 3)
    assert {"ort", "trt-rtx"} <= {entry.target for entry in manifest.targets}
    assert any("parity with the checkpoint not measured" in line for line in manifest.warnings)
    for name in manifest.files:
        verify_file(out, name, manifest)


def test_external_data_comes_along(artifact: Writer, tmp_path: Path) -> None:
    source = tmp_path / "big.onnx"
    onnx.save(
        onnx.load(artifact() / "model.onnx"), source, save_as_external_data=True,
        location="big.onnx.data", size_threshold=100,
    )  # fmt: skip
    out = tmp_path / "new"
    assert run("--onnx", source, "--out", out, "--target", "ort") == 0
    data = out / "model.onnx.big.onnx.data"
    assert set(Manifest.read(out).files) == {"model.onnx", data.name}
    open_runtime(out, "ort").close()
    with data.open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(ManifestError, match=r"big\.onnx\.data' was changed after it was built"):
        open_runtime(out, "ort")


@pytest.mark.skipif(not LACKS_TRT, reason="this machine builds with TensorRT")
def test_a_target_this_machine_lacks_is_one_line(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(precision="fp16")
    before = content(folder)
    assert run("--artifact", folder, "--target", "trt") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: target 'trt' cannot be built here: ")
    assert "pip install" in error or "GPU" in error
    assert error.count("\n") == 1
    assert content(folder) == before


def test_a_changed_onnx_file_is_refused(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(precision="fp16")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b" ")
    assert run("--artifact", folder) == 1
    assert "model.onnx' was changed after it was built" in capsys.readouterr().err


def test_a_failed_audit_leaves_the_artifact_alone(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(precision="fp32")
    replace(Manifest.read(folder), precision="fp16").write(folder)
    before = content(folder)
    assert run("--artifact", folder, "--target", "trt-rtx") == 1
    assert "error: precision fp16 was asked for, but only 0 of" in capsys.readouterr().err
    assert content(folder) == before


@pytest.mark.parametrize("most", [1000, 500_000])
def test_a_full_disk_leaves_the_artifact_alone(
    artifact: Writer, capsys: pytest.CaptureFixture[str], most: int
) -> None:
    folder = artifact(precision="fp16")
    before = content(folder)
    with full_disk(most):
        assert run("--artifact", folder, "--target", "trt-rtx") == 1
    error = capsys.readouterr().err
    assert "File too large" in error
    assert error.startswith("error: '")
    assert content(folder) == before


def test_a_file_in_place_of_the_folder_is_named(
    artifact: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = artifact(precision="fp16") / "model.onnx"
    blocked = tmp_path / "blocked"
    blocked.write_text("mine")
    for out in (blocked, blocked / "inner"):
        assert run("--onnx", source, "--out", out, "--target", "ort") == 1
        error = capsys.readouterr().err
        assert f"error: '{blocked}': is a file, expected a folder" in error
    assert blocked.read_text() == "mine"


def test_a_foreign_onnx_file_is_refused(
    segmenter: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--onnx", segmenter(), "--out", tmp_path / "new") == 1
    assert "it was not made by python -m export.build" in capsys.readouterr().err
    (tmp_path / "a.onnx").write_bytes(b"hello")
    assert run("--onnx", tmp_path / "a.onnx", "--out", tmp_path / "new") == 1
    assert "a.onnx' is no ONNX model" in capsys.readouterr().err
    assert run("--onnx", tmp_path / "none.onnx", "--out", tmp_path / "new") == 1
    assert "none.onnx': no such ONNX file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_batch_than_a_static_one_is_refused(
    artifact: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--artifact", artifact(precision="fp16"), "--batch", "1:2:4") == 1
    assert "--batch: expected 1, the ONNX file's static batch, got 1:2:4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --artifact --onnx is required"),
        (["--onnx", "m.onnx"], "--onnx needs --out"),
        (["--artifact", "a", "--out", "b"], "--artifact is extended in place"),
        (["--artifact", "a", "--digest", "123abc"], "expected all 64 hexadecimal digits"),
        (["--onnx", "m.onnx", "--out", "b", "--digest", "a" * 64], "--digest goes with --artifact"),
        (["--artifact", "a", "--onnx", "b"], "not allowed with argument"),
        (["--artifact", "a", "--batch", "4:2:1"], "1 <= MIN <= OPT <= MAX"),
        (["--artifact", "a", "--optimization-level", "9"], "invalid choice: 9"),
        (["--artifact", "a", "--target", "cuda"], "invalid choice: 'cuda'"),
    ],
)
def test_wrong_usage_exits_with_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_ctrl_c_in_a_build_leaves_the_artifact_alone(
    artifact: Writer, segmenter: Writer, delay: float
) -> None:
    folder = artifact(precision="fp16")
    shutil.copyfile(segmenter(depth=10), folder / "model.onnx")
    manifest = Manifest.read(folder)
    from export.manifest import hash_file

    replace(manifest, files={"model.onnx": hash_file(folder / "model.onnx")}).write(folder)
    before = content(folder)
    command = [sys.executable, "-m", "engines.build", "--artifact", str(folder)]
    process = subprocess.Popen(
        [*command, "--target", "trt-rtx"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "building tiny" in process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "error: interrupted; nothing unfinished was kept\n"
    assert "wrote" not in out
    assert content(folder) == before
