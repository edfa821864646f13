"""C++ and Python on OpenVINO give the same labels, byte for byte, on a whole test split."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engines.runtime import infer_all, open_runtime
from segvit.datasets.landcover import TILE, LandCover, read_tile, tile_origins
from tests.cpp.conftest import RunTool


def read_split(split: str) -> np.ndarray:
    """Return every tile that evaluation cuts from a split, `(n, 256, 256, 3)`."""
    data = LandCover()
    return np.stack([
        read_tile(image[top : top + TILE, left : left + TILE])
        for block in data.land_blocks(split)
        for image, _ in [data.crop(block)]
        for top, left in tile_origins(block)
    ])  # fmt: skip


def test_every_tile_of_the_split_is_labelled_alike(
    run_tool: RunTool, model: Path, tmp_path: Path
) -> None:
    tiles = read_split("test")
    assert len(tiles) > 171  # those with more land than not
    pictures, out = tmp_path / "tiles", tmp_path / "labels"
    pictures.mkdir()
    for index, tile in enumerate(tiles):
        cv2.imwrite(str(pictures / f"{index:03}.png"), np.ascontiguousarray(tile[..., ::-1]))
    done = run_tool("--artifact", model, pictures, "--out", out, "--target", "openvino")
    assert done.returncode == 0, done.stderr
    with open_runtime(model, "openvino") as runtime:
        expected = infer_all(runtime, tiles)
    for index, labels in enumerate(expected):
        got = cv2.imread(str(out / f"{index:03}.labels.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(got, labels), f"tile {index}"
