"""`segvit.datasets.training_data`: epochs over a folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segvit.datasets.folder import FolderDataset, Sample
from segvit.datasets.training_data import FolderTraining
from tests.tiny_models import make_config


@pytest.fixture
def data(tmp_path: Path) -> FolderTraining:
    """Five images of one shade each, which stays to be seen whatever is done to them."""
    samples = []
    for index in range(5):
        paths = [tmp_path / f"{index}.{kind}.png" for kind in ("image", "mask")]
        cv2.imwrite(str(paths[0]), np.full((64, 64, 3), 40 * index, np.uint8))
        cv2.imwrite(str(paths[1]), np.full((64, 64), index, np.uint8))
        samples.append(Sample(*paths))
    names = ("a", "b", "c", "d", "e")
    folder = FolderDataset(tuple(samples), names, ((0, 0, 0),) * 5)
    return FolderTraining(make_config(), folder, folder, batch_size=2, seed=3)


def test_the_model_gets_the_classes_of_the_data(data: FolderTraining) -> None:
    assert data.config.num_classes == 5
    assert data.config.class_names == ("a", "b", "c", "d", "e")


def test_every_epoch_shows_every_image_once(data: FolderTraining) -> None:
    orders = []
    for epoch in range(2):
        seen = []
        for number in range(5 * epoch, 5 * epoch + 5):
            step, index = divmod(number, 2)
            _, masks = data.batch(step, range(index, index + 1))
            seen.append(int(masks[masks != 255].max()))
        assert sorted(seen) == list(range(5))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_batches_are_a_function_of_step_and_shared_without_overlap(data: FolderTraining) -> None:
    images, masks = data.batch(1, range(2))
    assert images.shape == (2, 64, 64, 3)
    assert masks.dtype == np.int64
    for index in range(2):
        part, _ = data.batch(1, range(index, index + 1))
        assert (part[0] == images[index]).all()


def test_evaluation_is_by_sliding_windows(data: FolderTraining) -> None:
    shapes = set()

    def predict(crops: np.ndarray) -> np.ndarray:
        shapes.add(crops.shape[1:])
        found = np.rint(crops[..., 0] / 40).astype(np.int64)
        return np.moveaxis(np.eye(5, dtype=np.float32)[found], -1, 1)

    assert data.evaluate(predict).compute().miou == 1.0
    assert shapes == {(64, 64, 3)}
