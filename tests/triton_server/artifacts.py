"""Small artifacts to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from export.manifest import BuiltTarget, Manifest, hash_file
from tests.engines.conftest import describe, write_segmenter

# What a configuration's text has to survive.
ODD_NAMES = ('say "tree"', "back\\slash", "two\nlines", "Straße", "{}: [1]", "", "x", "y")


def make_artifact(
    folder: Path, targets: tuple[BuiltTarget, ...] = (), data: bool = False, **graph: Any
) -> Path:
    """Write an artifact of a small segmenter for ONNX Runtime, or with engines of no content."""
    folder.mkdir()
    write_segmenter(folder / "model.onnx", precision="fp32", **graph)
    names = ["model.onnx", *(["model.onnx.data"] if data else []), *(t.file for t in targets)]
    for name in names[1:]:
        (folder / name).write_bytes(f"the bytes of {name}".encode())
    files = {name: hash_file(folder / name) for name in names}
    entries = targets or (BuiltTarget("ort", "1.32.0", (), "model.onnx"),)
    replace(describe("fp32", **graph), files=files, targets=entries).write(folder)
    return folder


def engine(capability: str, version: str = "10.16.0") -> BuiltTarget:
    return BuiltTarget("trt", version, (capability,), f"trt-{capability.lower()}.engine")


def alter(folder: Path, **changes: Any) -> Path:
    replace(Manifest.read(folder), **changes).write(folder)
    return folder
