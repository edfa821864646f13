"""Both land-cover protocols, with predictors whose result is known beforehand."""

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import LandCoverTiles, LandCoverWindows
from segvit.evaluation import count_samples
from segvit.inference import Predict, Protocol

FILL = (127.5, 127.5, 127.5)


@pytest.fixture(scope="module")
def data() -> LandCover:
    return LandCover()


def _predict_colour(data: LandCover, most: int) -> Predict:
    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert len(images) <= most
        bins = images.astype(np.int64) >> 4
        index = bins[..., 0] << 8 | bins[..., 1] << 4 | bins[..., 2]
        return np.moveaxis(np.eye(7, dtype=np.float32)[data.colour_table[index]], -1, 1)

    return predict


@pytest.mark.parametrize("batch_size", [16, 5])
def test_colour_as_a_model_comes_close_to_the_colour_floor(
    data: LandCover, batch_size: int
) -> None:
    """The same look-up on tiles read at 256 px: resized colours and borders cost a little."""
    tiles = LandCoverTiles("test", batch_size)
    matrix = count_samples(_predict_colour(data, batch_size), tiles, range(len(tiles)))
    floor = data.colour_floor("test")
    assert matrix.compute().miou == pytest.approx(floor.miou, abs=0.03)
    counted = sum(int((data.crop(b)[1] != 255).sum()) for b in data.land_blocks("test"))
    assert matrix.counts.sum() == counted


def test_one_class_everywhere() -> None:
    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.zeros((len(images), 7, 256, 256), np.float32)
        scores[:, 2] = 1
        return scores

    tiles = LandCoverTiles("val")
    matrix = count_samples(predict, tiles, range(len(tiles)))
    assert matrix.counts[:, [0, 1, 3, 4, 5, 6]].sum() == 0
    assert matrix.compute().iou[2] == matrix.counts[2, 2] / matrix.counts.sum()


def test_shards_add_up(data: LandCover) -> None:
    tiles = LandCoverTiles("val")
    predict = _predict_colour(data, 16)
    whole = count_samples(predict, tiles, range(len(tiles)))
    parts = [count_samples(predict, tiles, range(rank, len(tiles), 3)) for rank in range(3)]
    assert (sum(part.counts for part in parts) == whole.counts).all()


def test_windows_count_every_pixel_once(data: LandCover) -> None:
    """A block of 250 source pixels takes two rows and columns of 128; the second overlaps."""
    protocol = Protocol(512, crop=(256, 256), stride=(256, 256), batch_size=4)
    windows = LandCoverWindows("val", 512, protocol, FILL)
    blocks = data.land_blocks("val")
    assert len(windows) == 4 * len(blocks)
    labelled = [windows.label(_predict_colour(data, 4), index) for index in range(4)]
    assert all(one.image.shape == (512, 512, 3) for one in labelled)
    assert all(one.found.shape == one.truth.shape == (512, 512) for one in labelled)
    counted = sum(int((one.truth != 255).sum()) for one in labelled)
    assert counted == 16 * int((data.crop(blocks[0])[1] != 255).sum())
    names = [windows.name(index) for index in range(len(windows))]
    assert len(set(names)) == len(names)


def test_neither_sends_the_map_to_another_process() -> None:
    protocol = Protocol(512, crop=(256, 256), stride=(256, 256))
    for evaluation in (LandCoverTiles("val"), LandCoverWindows("val", 512, protocol, FILL)):
        count = len(evaluation)
        sent = pickle.dumps(evaluation)
        assert len(sent) < 50_000
        assert len(pickle.loads(sent)) == count


@pytest.mark.parametrize("side", [0, 514, 1200])
def test_sides_that_do_not_fit(side: int) -> None:
    with pytest.raises(ValueError, match=f"a side of 4 to 600 pixels in steps of 4, got {side}"):
        LandCoverWindows("val", side, Protocol(512), FILL)
