"""`segvit.datasets.transforms`: the original's arithmetic, and what each draw may do."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segvit.config import find_variant
from segvit.datasets.transforms import (
    augment,
    blank_padding,
    crop_randomly,
    distort_colours,
    fit_size,
    pad_pair,
    resize_pair,
)
from segvit.inference import rescale_size
from segvit.prediction import normalise
from tests.tiny_models import GOLDEN

SIDES = (2048, 64)


@pytest.mark.parametrize(("kind", "name"), [("imagenet", "vit_b_ade20k"), ("jax", "vit_l_ade20k")])
def test_resizing_and_normalising_are_the_originals(kind: str, name: str) -> None:
    with np.load(GOLDEN / "pipeline.npz") as golden:
        image = np.ascontiguousarray(golden["bgr_uint8"][..., ::-1])
        size = rescale_size(image.shape[:2], 64)
        resized, mask = resize_pair(image, golden["seg_uint8"], size)
        found = normalise(resized[None], find_variant(name))[0]
        expected = torch.from_numpy(golden[f"{kind}_chw_float32"])
        assert torch.allclose(found, expected, atol=1e-5)
        assert (mask == golden["seg_resized_nearest"]).all()


def _pair(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A mask of blocks, and an image whose channels tell row, column and class."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows // 8 + columns // 8) % 3).astype(np.uint8)
    image = np.stack([rows % 256, columns % 256, mask * 80], axis=2).astype(np.uint8)
    return image, mask


def test_windows_are_cut_from_both_alike() -> None:
    image, mask = _pair(90, 120)
    tops = set()
    for seed in range(8):
        part, labels = crop_randomly(np.random.default_rng(seed), image, mask, (64, 64))
        assert part.shape == (64, 64, 3)
        assert (part[..., 2] == labels * 80).all()
        tops.add(int(part[0, 0, 0]))
    assert len(tops) > 3


def test_a_window_of_one_class_is_drawn_again() -> None:
    image, mask = _pair(64, 640)
    mask[:, 128:] = 1
    good = 0
    for seed in range(40):
        _, labels = crop_randomly(np.random.default_rng(seed), image, mask, (64, 64))
        good += np.bincount(labels.reshape(-1)).max() < 0.75 * labels.size
    # One window in six has two classes to show, and ten are drawn: 34 of 40 expected.
    assert good > 24


def test_one_class_everywhere_is_taken_after_all() -> None:
    image, mask = _pair(64, 80)
    _, labels = crop_randomly(np.random.default_rng(0), image, np.zeros_like(mask), (64, 64))
    assert labels.shape == (64, 64)


def test_colours_change_and_their_mean_stays_near() -> None:
    image = np.random.default_rng(0).integers(60, 180, (32, 32, 3), dtype=np.uint8)
    means = []
    for seed in range(40):
        changed = distort_colours(np.random.default_rng(seed), image)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        means.append(changed.mean())
    assert np.std(means) > 5
    assert abs(np.mean(means) - image.mean()) < 20


def test_padding_is_ignored_and_0_after_normalising() -> None:
    config = find_variant("vit_b_ade20k")
    pairs = [_pair(40, 64), _pair(64, 50), _pair(64, 64)]
    images, masks, sizes = zip(*(pad_pair(*pair, (64, 64)) for pair in pairs), strict=True)
    normalised = normalise(np.stack(images), config)
    pixels = blank_padding(normalised, torch.tensor(sizes))
    for index, (height, width) in enumerate(sizes):
        inside = np.zeros((64, 64), bool)
        inside[:height, :width] = True
        assert (masks[index][~inside] == 255).all()
        assert (pixels[index][:, ~inside] == 0).all()
        assert torch.equal(pixels[index][:, inside], normalised[index][:, inside])
        assert (images[index][inside] == pairs[index][0].reshape(-1, 3)).all()


@pytest.mark.parametrize("size", [(70, 100), (301, 640), (20, 900)])
@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.999])
def test_images_are_fit_into_two_sides(size: tuple[int, int], scale: float) -> None:
    assert fit_size(size, SIDES, scale) == rescale_size(size, 64, scale=scale)
    # PASCAL Context's sides are equal: the long one decides.
    assert max(fit_size(size, (520, 520), scale)) == int(520 * scale)


@pytest.mark.parametrize("size", [(70, 100), (20, 300), (64, 64)])
def test_a_sample_is_one_crop_and_a_function_of_its_generator(size: tuple[int, int]) -> None:
    image, mask = _pair(*size)
    first, labels, sizes = augment(np.random.default_rng(1), image, mask, 64, SIDES)
    again, _, _ = augment(np.random.default_rng(1), image, mask, 64, SIDES)
    assert first.shape == (64, 64, 3)
    assert labels.shape == (64, 64)
    assert (labels[sizes[0] :] == 255).all()
    assert (first == again).all()
    assert set(np.unique(labels)) <= {0, 1, 2, 255}
