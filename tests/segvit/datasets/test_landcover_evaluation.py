"""The evaluation protocol, with predictors whose result is known beforehand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import evaluate_landcover


@pytest.fixture(scope="module")
def data() -> LandCover:
    return LandCover()


@pytest.mark.parametrize("batch_size", [16, 5])
def test_colour_as_a_model_comes_close_to_the_colour_floor(
    data: LandCover, batch_size: int
) -> None:
    """The same look-up on tiles read at 256 px: resized colours and borders cost a little."""

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert len(images) <= batch_size
        bins = images.astype(np.int64) >> 4
        index = bins[..., 0] << 8 | bins[..., 1] << 4 | bins[..., 2]
        return np.moveaxis(np.eye(7, dtype=np.float32)[data.colour_table[index]], -1, 1)

    matrix = evaluate_landcover(predict, data, "test", batch_size, progress=False)
    floor = data.colour_floor("test")
    assert matrix.compute().miou == pytest.approx(floor.miou, abs=0.03)
    counted = sum(int((data.crop(b)[1] != 255).sum()) for b in data.land_blocks("test"))
    assert matrix.counts.sum() == counted


def test_one_class_everywhere(data: LandCover) -> None:
    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.zeros((len(images), 7, 256, 256), np.float32)
        scores[:, 2] = 1
        return scores

    matrix = evaluate_landcover(predict, data, "val", progress=False)
    assert matrix.counts[:, [0, 1, 3, 4, 5, 6]].sum() == 0
    assert matrix.compute().iou[2] == matrix.counts[2, 2] / matrix.counts.sum()
