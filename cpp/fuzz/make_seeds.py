"""Write small files of each kind for the fuzzers to start from, one folder a reader."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

from cpp.tests.app_make_cases import make_jpegs, make_pngs
from export.engine_list import EngineList
from export.manifest import BuiltTarget, Manifest, MissingTarget, ModelInfo, TensorSpec

_DIGEST = "0123456789abcdef" * 4


def main() -> None:
    """Write the folders below the one that `--out` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    rng = np.random.default_rng(3)
    pngs, jpegs = make_pngs(rng), make_jpegs(rng)
    for reader, files in (("png", pngs), ("jpeg", jpegs), ("npz", make_arrays())):
        folder = out / reader
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    (out / "manifest").mkdir(exist_ok=True)
    make_manifest().write(out / "manifest")
    make_engines().write(out / "engines", ["model.onnx"])


def make_arrays() -> dict[str, bytes]:
    """Return archives, stored and deflated, and one array alone."""
    images = np.zeros((1, 2, 3, 3), np.uint8)
    files = {}
    for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
        data = io.BytesIO()
        save(data, images=images, labels=np.zeros((1, 2, 3), np.int32))
        files[f"{name}.npz"] = data.getvalue()
    data = io.BytesIO()
    np.save(data, images)
    return {**files, "images.npy": data.getvalue()}


def make_engines() -> EngineList:
    """Return a list with an entry of each kind, of the artifact that fuzz_engines.cpp has."""
    return EngineList(
        manifest=_DIGEST,
        batch=(1, 2, 4),
        files={"a/b.engine": _DIGEST, "layers_trt.json": _DIGEST},
        targets=(
            BuiltTarget("trt", "11.4", ("SM90",), "a/b.engine", layers="layers_trt.json"),
            BuiltTarget("openvino", "2026.4.1", (), "model.onnx"),
        ),
        not_built=(MissingTarget("trt-rtx", "not installed"),),
        warnings=("a warning",),
    )


def make_manifest() -> Manifest:
    """Return a manifest with an entry of each kind."""
    return Manifest(
        version="0.1.0",
        model=ModelInfo("tiny", 1, "Apache-2.0"),
        precision="fp16",
        input=TensorSpec("image", "uint8", ("batch", 8, 8, 3)),
        outputs=(TensorSpec("labels", "uint8", ("batch", 8, 8)),),
        classes=("sea", "land"),
        palette=((0, 0, 255), (0, 255, 0)),
        batch=(1, 2, 4),
        files={"model.onnx": _DIGEST, "a/b.engine": _DIGEST},
        targets=(
            BuiltTarget("openvino", "2026.4.1", (), "model.onnx"),
            BuiltTarget("trt-rtx", "1.7.1", ("SM80", "SM89"), "a/b.engine"),
        ),
    )


if __name__ == "__main__":
    main()
