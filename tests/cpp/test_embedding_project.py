"""Programs that embed the library give Python's labels: the examples, and a project outside."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from export.manifest import Manifest
from tests.cpp.conftest import BUILD, ROOT, find_program, infer


def read_pgm(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels)


def run(*command: object, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    words = [str(word) for word in command]
    return subprocess.run(words, input=data, capture_output=True, timeout=60, check=False)


def test_a_project_outside_finds_the_installed_package(
    model: Path, tiles: np.ndarray, tmp_path: Path
) -> None:
    find_program("app/segvit-segment")
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    for command in (
        ["cmake", "--install", BUILD, "--prefix", prefix],
        [
            "cmake",
            "-S",
            ROOT / "cpp/examples/outside",
            "-B",
            build,
            f"-DCMAKE_PREFIX_PATH={prefix}",
        ],
        ["cmake", "--build", build],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr.decode()
    picture, written = tmp_path / "image.ppm", tmp_path / "labels.pgm"
    cv2.imwrite(str(picture), np.ascontiguousarray(tiles[0][..., ::-1]))
    done = run(build / "segment_ppm", model, picture, written)
    assert done.returncode == 0, done.stderr.decode()
    assert read_pgm(written).tobytes() == infer(model, tiles[:1]).tobytes()
    done = run(prefix / "bin/segvit-segment", "--artifact", model, "--self-test")
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", ["embed", "embed_c"])
def test_twenty_lines_give_pythons_labels(name: str, model: Path, tiles: np.ndarray) -> None:
    program = find_program(f"examples/{name}")
    done = run(program, model, data=tiles[1].tobytes())
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == infer(model, tiles[1:2]).tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("embed", b"expected 12288 bytes of RGB"), ("embed_c", b"too few pixels")],
)
def test_too_few_pixels_are_an_error(name: str, message: bytes, artifact: Path) -> None:
    done = run(find_program(f"examples/{name}"), artifact, data=b"abc")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert message in done.stderr


def test_the_camera_loop_keeps_the_frames_order(
    model: Path, tiles: np.ndarray, tmp_path: Path
) -> None:
    program = find_program("examples/camera_loop")
    classes = Manifest.read(model).classes
    largest = [classes[np.bincount(labels.reshape(-1)).argmax()] for labels in infer(model, tiles)]
    frames = np.concatenate([tiles, tiles[::-1], tiles[1:2]])
    order = [0, 1, 2, 3, 3, 2, 1, 0, 1]
    piped = run(program, model, "256x256", data=frames.tobytes())
    assert piped.returncode == 0, piped.stderr.decode()
    assert b"9 frames, " in piped.stderr
    assert len(set(largest)) > 1  # else the order would not show
    expected = [f"{frame}: {largest[index]}" for frame, index in enumerate(order)]
    assert piped.stdout.decode().splitlines() == expected
    for index, image in enumerate(tiles):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.ascontiguousarray(image[..., ::-1]))
    folder = run(program, model, tmp_path)
    assert folder.stdout.decode().splitlines() == expected[:4]


def test_the_camera_loop_says_what_it_takes(artifact: Path) -> None:
    done = run(find_program("examples/camera_loop"), artifact, "nowhere")
    assert done.returncode == 1
    assert done.stderr == b"error: 'nowhere': no such folder, and no WIDTHxHEIGHT\n"
