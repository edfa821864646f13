"""A build of a shipped model whose rarest class wins in FP32 alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from export.build import main
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.cli import run_main
from segvit.datasets.landcover import LandCover
from segvit.shipped import shipped_checkpoint

BARREN, SNOW = 5, 6
# Of the test tiles that seed 0 draws: a share of the first is snow, of the others nothing.
TILES = (12, 13, 14, 15, 16, 17, 18, 19, 20)


@pytest.mark.slow
def test_a_class_that_vanishes_in_int8_fails_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Barren becomes a copy of snow that loses to it by less than a step of FP16."""
    model = load_checkpoint(shipped_checkpoint("vit_t_shrunk_landcover"))
    with torch.no_grad():
        atm = model.decode_head.atm
        for tensor in (atm.query_embed.weight, atm.class_embed.weight, atm.class_embed.bias):
            tensor[BARREN] = tensor[SNOW]
        atm.class_embed.bias[SNOW] += 2e-5
    save_checkpoint(model, tmp_path / "planted.safetensors")
    (tmp_path / "images").mkdir()
    tiles, _ = LandCover().sample_images("test", 64, seed=0)
    for index in TILES:
        path = tmp_path / "images" / f"{index}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(tiles[index][..., ::-1]))
    options = ["--checkpoint", tmp_path / "planted.safetensors", "--int8", "--float-type", "fp16",
               "--images", tmp_path / "images", "--num-calibration-images", "4", "--target", "ort",
               "--out", tmp_path / "artifact"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        run_main(main, [str(option) for option in options])
    assert stopped.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: int8 ")
    assert "loses class 'snow and ice' (" in error
    assert "of 1 image) whole" in error
    assert "--calibration-images" in error
    assert not (tmp_path / "artifact").exists()
