"""docs/embedding.md: its Python runs, its C++ compiles in a project outside, both agree."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from export import build_options
from export.manifest import Manifest
from tests.cpp.conftest import BUILD, ROOT, find_program, infer

TEXT = (ROOT / "docs" / "embedding.md").read_text()


README_MAIN = """#include <segvit/segmenter.hpp>
#include <iostream>
int main() {
const std::uint8_t* pixels = nullptr;
%s}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def place(model: Path, tiles: np.ndarray, tmp_path: Path) -> Path:
    """A user's folder: an artifact and a photo."""
    (tmp_path / "artifacts").mkdir()
    shutil.copytree(model, tmp_path / "artifacts" / "mine")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "andes.png"), np.ascontiguousarray(tiles[0][..., ::-1]))
    return tmp_path


def test_the_commands_parse_and_the_self_test_runs(place: Path) -> None:
    (bash,) = blocks("bash")
    build, check = bash.strip().splitlines()
    build_options.parse_arguments(shlex.split(build)[3:])
    done = subprocess.run(
        [sys.executable, *shlex.split(check)[1:]], cwd=place, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_python_runs(place: Path, model: Path, tiles: np.ndarray) -> None:
    (python,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    named = Manifest.read(model).classes[infer(model, tiles[:1])[0, 0, 0]]
    assert done.stdout.splitlines() == [named, "1.0", *["(1, 256, 256)"] * 3]


def test_the_cpp_compiles_outside_and_says_the_same(
    place: Path, model: Path, tiles: np.ndarray
) -> None:
    find_program("app/segvit-segment")
    (cmake,), (cpp,) = blocks("cmake"), blocks("cpp")
    (readme,) = re.findall(r"```cpp\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = place / "project"
    source.mkdir()
    program = "\n".join(cmake.splitlines()[-2:])
    (source / "CMakeLists.txt").write_text(cmake + program.replace("mine", "readme"))
    (source / "mine.cpp").write_text(cpp)
    (source / "readme.cpp").write_text(README_MAIN % readme)
    for command in (
        f"cmake --install {BUILD} --prefix {place / 'prefix'}",
        f"cmake -S {source} -B {place / 'build'} -DCMAKE_PREFIX_PATH={place / 'prefix'}",
        f"cmake --build {place / 'build'}",
    ):
        subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=120)
    done = subprocess.run(
        [place / "build" / "mine"], cwd=place, input=tiles[0].tobytes(), capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    named = Manifest.read(model).classes[infer(model, tiles[:1])[0, 0, 0]]
    assert done.stdout.decode() == f"{named}\n"
    missing = subprocess.run(
        [place / "build" / "mine", "nowhere"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")


def test_the_installed_tool_does_what_the_page_says(place: Path) -> None:
    find_program("app/segvit-segment")
    (shell,) = blocks("sh")
    *_, install, check, run = shell.strip().splitlines()
    install = install.replace("build/mine", str(BUILD))
    for command in (install, check, run):
        done = subprocess.run(
            shlex.split(command), cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (place / "segments" / "andes.labels.png").is_file()
