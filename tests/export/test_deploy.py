"""The deployable model equals the reference it is folded from, on every head and size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.deploy import DeployModel
from segvit.checkpoint import load_checkpoint
from segvit.model import SegViT
from segvit.prediction import predict_scores
from tests.tiny_models import GOLDEN, make_config, make_model, random_images
from tests.tolerances import FOLD_RELATIVE

SHIPPED = sorted((Path(__file__).parents[2] / "segvit" / "weights").glob("*.safetensors"))


def _relative_error(model: SegViT, size: tuple[int, int], count: int = 2) -> float:
    images = random_images(count, *size)
    expected = predict_scores(model, images)
    with torch.no_grad():
        got = DeployModel(model, size, "scores")(torch.from_numpy(images)).numpy()
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
def test_scores_equal_on_random_weights(head: str, size: tuple[int, int]) -> None:
    assert _relative_error(make_model(make_config(head)), size) < FOLD_RELATIVE


@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
def test_scores_equal_on_golden_weights(golden_model: SegViT, size: tuple[int, int]) -> None:
    assert _relative_error(golden_model, size) < FOLD_RELATIVE


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_scores_equal_on_trained_weights(path: Path) -> None:
    assert _relative_error(load_checkpoint(path), (256, 256), count=1) < FOLD_RELATIVE


@pytest.mark.parametrize("head", ["cascade", "single"])
@pytest.mark.parametrize("size", [(32, 64), (80, 48)])
def test_full_models_take_any_grid(head: str, size: tuple[int, int]) -> None:
    assert _relative_error(make_model(make_config(head)), size) < FOLD_RELATIVE


def test_single_head_with_several_taps() -> None:
    config = make_config("single", tap_blocks=(1, 3))
    assert _relative_error(make_model(config), (64, 64)) < FOLD_RELATIVE


def test_single_head_with_several_stages() -> None:
    model = load_checkpoint(GOLDEN / "single_s3.pth")
    assert (model.config.decoder_stages, len(model.decode_head.atm.layers)) == (3, 6)
    assert _relative_error(model, (96, 96)) < FOLD_RELATIVE


def test_shrunk_with_an_odd_grid() -> None:
    config = make_config("shrunk", image_size=80)
    assert _relative_error(make_model(config), (80, 80)) < FOLD_RELATIVE


@pytest.mark.parametrize(
    ("classes", "dtype"), [(7, torch.uint8), (256, torch.uint8), (257, torch.int32)]
)
def test_labels_are_the_best_scores(classes: int, dtype: torch.dtype) -> None:
    model = make_model(make_config(num_classes=classes))
    images = random_images(2, 64, 64)
    labels = DeployModel(model, (64, 64))(torch.from_numpy(images))
    expected = predict_scores(model, images).argmax(axis=1)
    assert labels.dtype == dtype
    assert (labels.numpy() == expected).mean() > 0.9999


@pytest.mark.parametrize("strips", [2, 4, 8])
def test_strips_change_nothing(golden_model: SegViT, strips: int) -> None:
    images = torch.from_numpy(random_images(2, 64, 64))
    whole = DeployModel(golden_model, (64, 64))(images)
    assert torch.equal(DeployModel(golden_model, (64, 64), tail_strips=strips)(images), whole)


def test_refuses_what_cannot_work() -> None:
    model = make_model(make_config())
    with pytest.raises(
        ValueError, match=r"70x64 is no multiple of the patch size 16; try --size 64x64"
    ):
        DeployModel(model, (70, 64))
    with pytest.raises(ValueError, match="tail strips must cut 64 rows"):
        DeployModel(model, (64, 64), tail_strips=5)
    with pytest.raises(ValueError, match="leave --tail-strips out"):
        DeployModel(model, (96, 96), tail_strips=2)
    with pytest.raises(ValueError, match="output must be labels or scores, got 'logits'"):
        DeployModel(model, (64, 64), "logits")
    with pytest.raises(ValueError, match="Shrunk head restores the square 64-px training crop"):
        DeployModel(make_model(make_config("shrunk")), (64, 96))
