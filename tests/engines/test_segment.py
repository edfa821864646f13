from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from engines import ort_runtime, segment
from engines.segment import main
from export.manifest import Manifest, hash_file
from segvit.cli import run_main

Writer = Callable[..., Path]


def run(*arguments: str | Path) -> int:
    """Return the exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as end:
        run_main(main, [str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images: one of the engine's size, one larger, one grey and wide."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(5)
    folder.mkdir()
    for name, shape in (("a.png", (64, 64, 3)), ("b.png", (96, 130, 3)), ("c.png", (64, 200))):
        coarse = rng.integers(0, 256, (4, 4, *shape[2:]), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, shape[1::-1]))
    return folder


def read_labels(path: Path) -> np.ndarray:
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    return np.asarray(labels)


def test_labels_are_the_engines_and_overlays_stand_beside(
    artifact: Writer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = artifact(), tmp_path / "out"
    assert run("--artifact", folder, pictures, "--out", out) == 0
    names = [f"{stem}.{kind}.png" for stem in "abc" for kind in ("labels", "overlay")]
    assert sorted(path.name for path in out.iterdir()) == names
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    bgr = cv2.imread(str(pictures / "a.png"), cv2.IMREAD_COLOR)
    assert bgr is not None
    expected = session.run(None, {"image": bgr[None, ..., ::-1].copy()})[0][0]
    assert np.array_equal(read_labels(out / "a.labels.png"), expected)
    assert read_labels(out / "b.labels.png").shape == (96, 130)
    assert read_labels(out / "c.labels.png").shape == (64, 200)
    overlay = cv2.imread(str(out / "b.overlay.png"))
    assert overlay is not None
    assert overlay.shape[0] >= 96
    assert overlay.shape[1] > 130
    said = capsys.readouterr().out
    assert f"segmenting 3 images on ort into {out}" in said
    assert f"wrote 6 files to {out}" in said


def test_an_image_of_another_size_is_resized_and_its_labels_back(
    artifact: Writer, pictures: Path, tmp_path: Path
) -> None:
    folder, out = artifact(), tmp_path / "out"
    assert run("--artifact", folder, pictures / "b.png", "--out", out) == 0
    bgr = cv2.imread(str(pictures / "b.png"))
    assert bgr is not None
    resized = cv2.resize(bgr, (64, 64), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    labels = session.run(None, {"image": resized[None].copy()})[0][0]
    rows, columns = (np.arange(96) * 64 + 32) // 96, (np.arange(130) * 64 + 32) // 130
    assert np.array_equal(read_labels(out / "b.labels.png"), labels[rows][:, columns])


def test_batches_and_scores_give_the_same_labels(
    artifact: Writer, pictures: Path, tmp_path: Path, segmenter: Writer
) -> None:
    assert run("--artifact", artifact(), pictures, "--out", tmp_path / "one") == 0
    (tmp_path / "artifact").rename(tmp_path / "first")
    dynamic = artifact(batch="batch")
    for count in (1, 2, 4):
        out = tmp_path / f"batch{count}"
        assert run("--artifact", dynamic, pictures, "--out", out, "--batch", count) == 0
    (tmp_path / "artifact").rename(tmp_path / "second")
    assert run("--artifact", artifact(scores=True), pictures, "--out", tmp_path / "scores") == 0
    for name in ("a.labels.png", "b.labels.png", "c.labels.png"):
        expected = read_labels(tmp_path / "one" / name)
        for other in ("batch1", "batch2", "batch4", "scores"):
            assert np.array_equal(read_labels(tmp_path / other / name), expected)


def test_a_fixed_batch_is_filled_up(artifact: Writer, pictures: Path, tmp_path: Path) -> None:
    assert run("--artifact", artifact(batch=2), pictures, "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_json_lists_files_and_shares(
    artifact: Writer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("--artifact", artifact(), pictures, "--out", out, "--json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert "segmenting 3 images" in printed.err
    assert document["target"] == "ort"
    assert [Path(entry["image"]).name for entry in document["images"]] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    classes = Manifest.read(tmp_path / "artifact").classes
    for entry in document["images"]:
        labels = read_labels(Path(entry["labels"]))
        shares = {classes[i]: float((labels == i).mean()) for i in np.unique(labels)}
        assert entry["shares"] == pytest.approx(shares, abs=1e-6)
        assert Path(entry["overlay"]).is_file()


def test_globs_name_images(artifact: Writer, pictures: Path, tmp_path: Path) -> None:
    assert run("--artifact", artifact(), f"{pictures}/[ab].png", "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_earlier_results_are_replaced(artifact: Writer, pictures: Path, tmp_path: Path) -> None:
    folder, out = artifact(), tmp_path / "out"
    out.mkdir()
    (out / "a.labels.png").write_text("old")
    assert run("--artifact", folder, pictures, "--out", out) == 0
    assert read_labels(out / "a.labels.png").shape == (64, 64)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("empty.png", lambda data: b"", "is empty (0 bytes)"),
        ("cut.png", lambda data: data[: len(data) // 2], "is cut off"),
        ("text.png", lambda data: b"not an image", "cannot be decoded"),
    ],
)
def test_an_unreadable_image_is_named_in_one_line(
    artifact: Writer,
    pictures: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[bytes], bytes],
    message: str,
) -> None:
    path, out = pictures / name, tmp_path / "out"
    path.write_bytes(spoil((pictures / "a.png").read_bytes()))
    assert run("--artifact", artifact(), path, "--out", out) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: image '{path}'")
    assert message in error
    assert error.count("\n") == 1
    assert list(out.iterdir()) == []


def test_the_next_image_is_read_while_one_is_computed(
    artifact: Writer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_read, in_time = threading.Event(), list[bool]()
    read_image, run_instance = segment.read_image, ort_runtime.OrtInstance.run

    def read_and_say(path: Path) -> np.ndarray:
        image = read_image(path)
        if path.name == "b.png":
            second_read.set()
        return image

    def run_late(*arguments: Any) -> np.ndarray:
        in_time.append(second_read.wait(30))
        return run_instance(*arguments)

    monkeypatch.setattr(segment, "read_image", read_and_say)
    monkeypatch.setattr(ort_runtime.OrtInstance, "run", run_late)
    assert run("--artifact", artifact(), pictures, "--out", tmp_path / "out") == 0
    assert in_time == [True, True, True]


def test_images_before_an_unreadable_one_are_whole(
    artifact: Writer, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "b.png").write_bytes(b"")
    out = tmp_path / "out"
    assert run("--artifact", artifact(), pictures, "--out", out) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.labels.png", "a.overlay.png"]


def test_two_images_of_one_name_are_refused(
    artifact: Writer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "a.jpg"
    other.write_bytes((pictures / "a.png").read_bytes())
    out = tmp_path / "out"
    assert run("--artifact", artifact(), pictures, other, "--out", out) == 1
    error = capsys.readouterr().err
    assert f"'{pictures / 'a.png'}' and '{other}' would both be written as 'a.labels.png'" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "'none.png': no such image, folder or pattern"),
        (["PICTURES", "--opacity", "1.5"], "--opacity: expected 0 to 1, got 1.5"),
        (["PICTURES", "--batch", "7"], "--batch: the engine takes 1 to 1 images, got 7"),
        (["PICTURES", "--device", "gpu"], "device 'gpu': expected a GPU's number, cpu"),
        (
            ["PICTURES", "--target", "trt-rtx"],
            "holds no trt-rtx engine, only ort; build it: python",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    artifact: Writer,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    given = [str(pictures) if text == "PICTURES" else text for text in arguments]
    assert run("--artifact", artifact(), *given, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_another_artifact_than_the_one_of_the_digest_is_refused(
    artifact: Writer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact()
    digest = hash_file(folder / "manifest.json")
    options = ["--artifact", folder, pictures, "--out", tmp_path / "out", "--digest"]
    for extra in ([], ["--rebuild"]):
        assert run(*options, "a" * 64, *extra) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: '{folder}' is not the artifact that was asked for: ")
        assert f"expected digest {'a' * 64}, got {digest}; " in error
    assert run(*options, digest[:12]) == 2
    assert "expected all 64 hexadecimal digits" in capsys.readouterr().err
    assert run(*options, digest, "--rebuild", "--target", "ort") == 0


def test_no_artifact_is_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--artifact", tmp_path / "none", pictures, "--out", tmp_path / "out") == 1
    assert "is no artifact folder: it has no manifest.json" in capsys.readouterr().err


def test_a_file_in_place_of_the_output_folder_is_named(
    artifact: Writer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("mine")
    assert run("--artifact", artifact(), pictures, "--out", blocked) == 1
    assert f"error: '{blocked}': is a file, expected a folder" in capsys.readouterr().err
    assert blocked.read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(
    artifact: Writer, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = (
        "import resource, signal, sys; from engines.segment import main; from segvit.cli import "
        "run_main\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\nrun_main(main)"
    )
    arguments = ["--artifact", artifact(), pictures, "--out", out]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    path = out / "a.labels.png"
    assert done.stderr == f"error: '{path}': File too large; write to a disk without that limit\n"
    assert list(out.iterdir()) == []


def test_help_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "example:\n  python -m engines.segment --artifact" in capsys.readouterr().out
