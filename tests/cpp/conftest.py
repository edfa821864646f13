"""The built C++ programs, and an artifact that Python and C++ open alike."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.runtime import infer_all, open_runtime
from engines.target import Target, installed_version
from export.manifest import BuiltTarget, Manifest, hash_file
from tests.engines.conftest import describe, write_segmenter

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("SEGVIT_CPP_BUILD", ROOT / "build" / "cpp"))
SIZE = 64
RunTool = Callable[..., subprocess.CompletedProcess[str]]


def find_program(name: str) -> Path:
    """Return a program of the C++ build, or skip the test."""
    path = BUILD / name
    if not path.is_file():
        pytest.skip(f"no {path}: run make cpp first")
    return path


@pytest.fixture
def run_tool() -> RunTool:
    """A function that runs segvit-segment and returns what it printed."""
    tool = find_program("app/segvit-segment")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(tool), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Three images of the artifact's size, of noise."""
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    """A folder for OpenVINO whose golden labels are those of Python on OpenVINO."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("cpp") / "artifact"
    folder.mkdir()
    write_segmenter(folder / "model.onnx", precision="fp32", size=SIZE, batch="batch")
    described = describe("fp32", SIZE, "batch")
    manifest = replace(
        described,
        model=replace(described.model, random_weights=False),
        files={"model.onnx": hash_file(folder / "model.onnx")},
        targets=(BuiltTarget("openvino", installed_version(Target.OPENVINO), (), "model.onnx"),),
    )
    manifest.write(folder)
    write_golden(folder, images, infer(folder, images))
    return folder


@pytest.fixture(scope="session")
def model() -> Path:
    """The shipped model for OpenVINO, beside the build; golden.npz is PyTorch's."""
    folder = BUILD.parent / "cpp-model"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no {folder}: run make cpp first")
    return folder


@pytest.fixture(scope="session")
def tiles(model: Path) -> np.ndarray:
    """The land-cover tiles of its golden.npz, RGB."""
    with np.load(model / "golden.npz") as golden:
        return np.asarray(golden["images"])


def infer(artifact: Path, images: np.ndarray) -> np.ndarray:
    """Return labels of Python on OpenVINO."""
    with open_runtime(artifact, "openvino") as runtime:
        return np.asarray(infer_all(runtime, images))


def write_golden(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write golden.npz, and its hash into the manifest."""
    path = folder / "golden.npz"
    np.savez_compressed(path, images=images, labels=labels.astype(np.int32))
    manifest = Manifest.read(folder)
    replace(manifest, files={**manifest.files, path.name: hash_file(path)}).write(folder)
