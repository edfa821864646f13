"""Training batches: deterministic, augmented alike, inside the training blocks."""

import numpy as np
import pytest

from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_training import (
    CLASS_SHARES,
    TrainingTiles,
    _place,
    _recolour,
    _turn,
)


@pytest.fixture(scope="module")
def tiles() -> TrainingTiles:
    return TrainingTiles(LandCover(), seed=0)


def test_batches_are_a_function_of_seed_and_step(tiles: TrainingTiles) -> None:
    images, labels = tiles.batch(3, range(4))
    assert images.shape == (4, 256, 256, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (4, 64, 64)
    again, _ = tiles.batch(3, range(4))
    assert (images == again).all()
    assert (tiles.batch(4, range(4))[0] != images).any()
    assert (TrainingTiles(tiles.data, 1).batch(3, range(4))[0] != images).any()


def test_devices_share_a_batch_without_overlap(tiles: TrainingTiles) -> None:
    whole, _ = tiles.batch(5, range(4))
    first, second = (tiles.batch(5, part)[0] for part in (range(2), range(2, 4)))
    assert (np.concatenate([first, second]) == whole).all()


def test_rare_classes_are_seen(tiles: TrainingTiles) -> None:
    _, labels = tiles.batch(0, range(160))
    present = [(labels == label).any(axis=(1, 2)).mean() for label in range(7)]
    assert all(share > wanted * 0.6 for share, wanted in zip(present, CLASS_SHARES, strict=True))


def test_training_pixels_come_from_training_blocks(tiles: TrainingTiles) -> None:
    assert tiles.blocks == tiles.data.blocks("train")
    for label, found in enumerate(tiles._pixels):
        index, row, column = found[len(found) // 2]
        block = tiles.blocks[index]
        assert tiles.data.labels[block.top + row, block.left + column] == label


@pytest.mark.parametrize("position", [0, 1, 100, 249])
def test_crops_hold_their_pixel_and_stay_inside(position: int) -> None:
    rng = np.random.default_rng(0)
    for side in (48, 64, 96):
        for _ in range(20):
            start = _place(rng, position, side, 250)
            assert 0 <= start <= position < start + side <= 250


def test_turns_move_image_and_labels_alike() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2)
    seen = set()
    for seed in range(60):
        turned, labels = _turn(np.random.default_rng(seed), image, image[..., 0])
        assert (turned[..., 0] == labels).all()
        assert sorted(labels.ravel()) == list(range(16))
        seen.add(labels.tobytes())
    assert len(seen) == 8


def test_colours_change_a_little() -> None:
    image = np.full((8, 8, 3), 120, np.uint8)
    for seed in range(20):
        changed = _recolour(np.random.default_rng(seed), image)
        assert np.abs(changed.astype(int) - 120).max() <= 120 * 0.08 + 0.06 * 127.5 + 1
    assert _recolour(np.random.default_rng(0), np.full((8, 8, 3), 255, np.uint8)).max() <= 255
