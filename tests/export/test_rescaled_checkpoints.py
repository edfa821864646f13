"""Checkpoints that are the same in FP32 never pass a 16-bit build blindly."""

import re
from pathlib import Path

import numpy as np
import pytest

from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.datasets.landcover import LandCover
from segvit.model import SegViT
from segvit.prediction import predict_scores
from segvit.shipped import shipped_checkpoint
from tests.rescaled_checkpoints import RESCALINGS, rescale_model, try_build
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import FOLD_RELATIVE


@pytest.fixture(scope="module")
def shipped() -> SegViT:
    return load_checkpoint(shipped_checkpoint("vit_t_landcover"))


@pytest.mark.parametrize(("name", "exponent"), RESCALINGS)
def test_labels_of_the_shipped_model_stay(shipped: SegViT, name: str, exponent: int) -> None:
    images, _ = LandCover().sample_images("test", 2, 0)
    expected = predict_scores(shipped, images).argmax(axis=1)
    got = predict_scores(rescale_model(shipped, name, exponent), images).argmax(axis=1)
    assert (got == expected).all()


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
@pytest.mark.parametrize(("name", "exponent"), RESCALINGS)
def test_scores_of_every_head_stay(head: str, name: str, exponent: int) -> None:
    model, images = make_model(make_config(head)), random_images(1, 64, 64)
    expected = predict_scores(model, images)
    got = predict_scores(rescale_model(model, name, exponent), images)
    assert np.abs(got - expected).max() <= FOLD_RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize(
    "precision", ["fp16", pytest.param("bf16", marks=pytest.mark.trt_rtx), "int8", "fp8"]
)
@pytest.mark.parametrize(
    ("rescaling", "layer"),
    [(("decoder hidden", 15), "head/stages/0/0/linear1/"), (("residual", 14), "")],
)
def test_builds_are_refused_with_the_layer_named(
    rescaling: tuple[str, int], layer: str, precision: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "rescaled.safetensors"
    save_checkpoint(rescale_model(make_model(make_config()), *rescaling), checkpoint)
    command = ["--checkpoint", checkpoint, "--random-weights", f"--{precision}", "--num-images", 2,
               "--target", "ort", "--out", tmp_path / "artifact"]  # fmt: skip
    if precision == "bf16":  # which ONNX Runtime has no kernels for
        command[7:8] = ["trt-rtx", "--compute-capability", "SM89", "--allow-unfused"]
    if precision in ("int8", "fp8"):
        command += ["--float-type", "fp16", "--num-calibration-images", 2]
    said = try_build([*map(str, command)])
    # INT8 and FP8 may be refused before they are built: calibration sees what is not finite.
    where = f"({precision} overflows in|calibration image 1: tensor)"
    assert re.search(f"^REFUSED: {where} '{layer}[a-z0-9_/A-Z]+'", said), said
    assert not (tmp_path / "artifact").exists()
    assert precision != "bf16" or "--bf16" not in said
