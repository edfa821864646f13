"""segvit-segment gives what `python -m engines.segment` gives, good input and bad."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpp.tests.app_make_cases import make_jpegs, make_pngs
from engines.segment import main as segment
from export.manifest import hash_file
from tests.cpp.conftest import SIZE, RunTool, find_program, write_golden


@pytest.fixture
def pictures(tmp_path: Path, images: np.ndarray) -> Path:
    """A folder of three images: of the small engine's size, larger, and a JPEG."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "same_size.png"), images[0])
    cv2.imwrite(str(folder / "larger.png"), cv2.resize(images[1], (200, 100)))
    cv2.imwrite(str(folder / "photo.jpeg"), cv2.resize(images[2], (90, 77)))
    return folder


@pytest.fixture
def kinds(tmp_path: Path, tiles: np.ndarray) -> Path:
    """A folder of every kind of PNG and JPEG, small, and of tiles in some sizes and depths."""
    folder, rng = tmp_path / "kinds", np.random.default_rng(3)
    folder.mkdir()
    for name, data in {**make_pngs(rng), **make_jpegs(rng)}.items():
        (folder / name).write_bytes(data)
    for index, tile in enumerate(tiles[:2]):
        bgr = np.ascontiguousarray(tile[..., ::-1])
        alpha = rng.integers(0, 256, (*bgr.shape[:2], 1), np.uint8)
        shapes = {
            "same": bgr,
            "deep": bgr.astype(np.uint16) * 257 + rng.integers(0, 128, bgr.shape, np.uint16),
            "alpha": np.concatenate([bgr, alpha], axis=2),
            "double": cv2.resize(bgr, (512, 512)),
            "wide": cv2.resize(bgr, (700, 333)),
            "small": cv2.resize(bgr, (100, 130)),
        }
        for name, pixels in shapes.items():
            cv2.imwrite(str(folder / f"{name}{index}.png"), pixels)
        cv2.imwrite(str(folder / f"photo{index}.jpeg"), shapes["wide"])
    return folder


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return np.asarray(pixels)


def check_error(done: subprocess.CompletedProcess[str], message: str, code: int = 1) -> None:
    """Check that a command failed with one line that holds `message`."""
    assert done.returncode == code
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert done.stderr.count("error:") == 1


def test_labels_and_overlays_are_pythons(
    run_tool: RunTool, model: Path, kinds: Path, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "cpp", tmp_path / "python"
    done = run_tool("--artifact", model, kinds, "--out", ours, "--target", "openvino")
    assert done.returncode == 0, done.stderr
    arguments = ["--artifact", model, kinds, "--out", theirs, "--target", "openvino"]
    assert segment([str(argument) for argument in arguments]) == 0
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    assert f"wrote {len(names)} files to {ours}" in done.stdout
    classes = set[int]()
    for name in names:
        got, expected = read(ours / name), read(theirs / name)
        if name.endswith(".labels.png"):
            assert got.dtype == expected.dtype
            assert np.array_equal(got, expected), name
            classes |= set(np.unique(got).tolist())
        else:  # the legend beside it is Python's alone
            blended = expected[: got.shape[0], : got.shape[1]].astype(int)
            assert np.abs(got - blended).max() <= 1, name
    assert len(classes) > 4  # labels of one class would agree whatever was read


def test_instances_and_batches_change_nothing(
    run_tool: RunTool, artifact: Path, pictures: Path, tmp_path: Path
) -> None:
    for out, options in (("one", []), ("many", ["--instances", 2, "--threads", 2, "--batch", 1])):
        done = run_tool("--artifact", artifact, pictures, "--out", tmp_path / out, *options)
        assert done.returncode == 0, done.stderr
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_json_lists_files_and_shares(
    run_tool: RunTool, artifact: Path, pictures: Path, tmp_path: Path
) -> None:
    path = pictures / "same_size.png"
    done = run_tool("--artifact", artifact, path, "--out", tmp_path / "out", "--json")
    assert "segmenting 1 images on openvino" in done.stderr
    document = json.loads(done.stdout)
    assert document["target"] == "openvino"
    assert document["artifact"] == str(artifact)
    (entry,) = document["images"]
    assert entry["image"] == str(path)
    labels = read(Path(entry["labels"]))
    assert entry["overlay"] == str(tmp_path / "out" / "same_size.overlay.png")
    shares = sorted(float((labels == i).mean()) for i in np.unique(labels))
    assert sorted(entry["shares"].values()) == pytest.approx(shares, abs=1e-6)


def test_self_test_agrees_with_pytorch(run_tool: RunTool, model: Path) -> None:
    digest = hash_file(model / "manifest.json")
    done = run_tool(
        "--artifact", model, "--self-test", "--target", "openvino", "--digest", digest.upper()
    )
    assert done.returncode == 0, done.stderr
    assert "testing fp16 on openvino with 4 images" in done.stdout
    assert "of labels equal; the gate of fp16 is 0.999" in done.stdout
    document = json.loads(run_tool("--artifact", model, "--self-test", "--json").stdout)
    assert len(document["images"]) == 4
    assert document["agreement"] == pytest.approx(np.mean(document["images"]))
    assert 0.999 <= document["agreement"] <= 1
    assert document["gate"] == 0.999


def test_self_test_fails_below_its_gate(
    run_tool: RunTool, artifact: Path, images: np.ndarray, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    with np.load(folder / "golden.npz") as golden:
        labels = golden["labels"]
    labels[1, :, : SIZE // 2] += 1
    write_golden(folder, images, labels)
    done = run_tool("--artifact", folder, "--self-test")
    check_error(done, "gives 0.83333 of the reference's labels in fp32, the gate is 0.9999")
    assert "image 1: 0.50000 of labels equal" in done.stdout


def test_self_test_reads_nothing_that_was_changed(
    run_tool: RunTool, artifact: Path, images: np.ndarray, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    write_golden(folder, images[:, :32], np.zeros((3, 32, SIZE)))
    check_error(run_tool("--artifact", folder, "--self-test"), "does not fit its manifest")
    data = bytearray((folder / "golden.npz").read_bytes())
    data[100] ^= 1
    (folder / "golden.npz").write_bytes(data)
    check_error(run_tool("--artifact", folder, "--self-test"), "golden.npz")
    (folder / "golden.npz").unlink()
    check_error(run_tool("--artifact", folder, "--self-test"), "golden.npz' is missing")


def test_benchmark_prints_figures(run_tool: RunTool, artifact: Path, pictures: Path) -> None:
    path = pictures / "photo.jpeg"
    options = ("--benchmark", 5, "--batch", 2, "--instances", 2)
    done = run_tool("--artifact", artifact, path, *options)
    assert done.stdout.startswith("5 runs on openvino, batch 2, 2 at once: median ")
    figures = json.loads(run_tool("--artifact", artifact, path, *options, "--json").stdout)
    assert (figures["runs"], figures["batch"], figures["instances"]) == (5, 2, 2)
    assert 0 < figures["median_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
    assert figures["images_per_second"] > 0


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("empty.png", lambda data: b"", "is empty (0 bytes)"),
        ("cut.png", lambda data: data[: len(data) // 2], "is cut off"),
        ("text.png", lambda data: b"not an image", "cannot be decoded"),
    ],
)
def test_an_unreadable_image_is_named(
    run_tool: RunTool,
    artifact: Path,
    pictures: Path,
    tmp_path: Path,
    name: str,
    spoil: Callable[[bytes], bytes],
    message: str,
) -> None:
    good, bad, out = pictures / "same_size.png", tmp_path / name, tmp_path / "out"
    bad.write_bytes(spoil(good.read_bytes()))
    done = run_tool("--artifact", artifact, good, bad, "--out", out, "--batch", 1)
    check_error(done, f"image '{bad}' ")
    assert message in done.stderr
    # What came before it is whole, and nothing half-written is left.
    assert sorted(path.stem for path in out.iterdir()) == ["same_size.labels", "same_size.overlay"]


def test_two_images_of_one_name_are_refused(
    run_tool: RunTool, artifact: Path, pictures: Path, tmp_path: Path
) -> None:
    other = shutil.copy(pictures / "same_size.png", tmp_path / "same_size.jpg")
    out = tmp_path / "out"
    done = run_tool("--artifact", artifact, pictures, other, "--out", out)
    check_error(done, "would both be written as 'same_size.labels.png'; rename one")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["none.png"], "'none.png': no such image or folder", 1),
        (["PICTURES", "--opacity", "1.5"], "--opacity: expected 0 to 1, got 1.5", 1),
        (["PICTURES", "--opacity", "nan"], "--opacity: expected 0 to 1, got nan", 1),
        (["PICTURES", "--batch", "7"], "--batch: the engine takes 1 to 4 images, got 7", 1),
        (["PICTURES", "--instances", "0"], "instances: expected 1 to", 1),
        (["PICTURES", "--target", "trt-rtx"], "holds no trt-rtx engine, only openvino", 1),
        (["PICTURES", "--target", "ort"], "--target", 2),
        (["PICTURES", "--batch", "two"], "--batch", 2),
        (["PICTURES", "--nonsense"], "--nonsense", 2),
        ([], "IMAGE and --out are required", 2),
        (["PICTURES", "--self-test"], "--self-test takes neither IMAGE nor --out", 2),
        (["PICTURES", "--benchmark", "0"], "--benchmark", 2),
        (["PICTURES", "--digest", "a" * 64], f"expected digest {'a' * 64}, got ", 1),
        (["PICTURES", "--digest", "abc123"], "expected all 64 hexadecimal digits", 1),
    ],
)
def test_wrong_arguments_are_one_line(
    run_tool: RunTool,
    artifact: Path,
    pictures: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    code: int,
) -> None:
    given = [str(pictures) if text == "PICTURES" else text for text in arguments]
    done = run_tool("--artifact", artifact, *given, "--out", tmp_path / "out")
    check_error(done, message, code)


def test_no_artifact_is_one_line(run_tool: RunTool, pictures: Path, tmp_path: Path) -> None:
    done = run_tool("--artifact", tmp_path / "none", pictures, "--out", tmp_path / "out")
    check_error(done, "is no artifact folder: it has no manifest.json")


def test_a_file_in_place_of_the_output_folder_is_named(
    run_tool: RunTool, artifact: Path, pictures: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("mine")
    done = run_tool("--artifact", artifact, pictures, "--out", blocked)
    check_error(done, f"'{blocked}': is a file, expected a folder for the output")
    assert blocked.read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(
    artifact: Path, pictures: Path, tmp_path: Path
) -> None:
    tool, out = find_program("app/segvit-segment"), tmp_path / "out"
    command = ["prlimit", "--fsize=100", tool, "--artifact", artifact, pictures, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    path = out / "larger.labels.png"
    check_error(done, f"'{path}': File too large; write to a disk without that limit")
    assert list(out.iterdir()) == []


def test_help_ends_with_an_example(run_tool: RunTool) -> None:
    done = run_tool("--help")
    assert done.returncode == 0
    assert "example:\n  segvit-segment --artifact" in done.stdout
