"""`segvit.datasets.training_data`: epochs over a folder, and workers that prepare batches."""

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segvit.datasets.folder import FolderDataset, Sample
from segvit.datasets.training_data import FolderTraining, iterate_batches
from segvit.evaluation import count_samples
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
            masks = data.batch(step, range(index, index + 1)).labels
            seen.append(int(masks[masks != 255].max()))
        assert sorted(seen) == list(range(5))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_batches_are_a_function_of_step_and_shared_without_overlap(data: FolderTraining) -> None:
    whole = data.batch(1, range(2))
    assert whole.images.shape == (2, 64, 64, 3)
    assert whole.images.dtype == torch.uint8
    assert (whole.labels.dtype, whole.sizes.dtype) == (torch.uint8, torch.int64)
    for index, part in enumerate(whole.split(2)):
        alone = data.batch(1, range(index, index + 1))
        for tensor, expected in zip(alone, part, strict=True):
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_workers(data: FolderTraining, workers: int) -> None:
    state = torch.get_rng_state()
    batches = list(iterate_batches(data, range(3, 9), range(2), workers))
    assert torch.equal(torch.get_rng_state(), state)
    for step, batch in zip(range(3, 9), batches, strict=True):
        for tensor, expected in zip(batch, data.batch(step, range(2)), strict=True):
            assert torch.equal(tensor, expected)


def test_workers_end_with_the_iterator(data: FolderTraining) -> None:
    batches = iterate_batches(data, range(1000), range(2), 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_plain_error(data: FolderTraining, workers: int) -> None:
    data.train.samples[2].image.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^image .*2\.image\.png.* cannot be decoded"):
        list(iterate_batches(data, range(3), range(2), workers))


def test_evaluation_is_by_sliding_windows(data: FolderTraining) -> None:
    shapes = set()

    def predict(crops: np.ndarray) -> np.ndarray:
        shapes.add(crops.shape[1:])
        found = np.rint(crops[..., 0] / 40).astype(np.int64)
        return np.moveaxis(np.eye(5, dtype=np.float32)[found], -1, 1)

    matrix = count_samples(predict, data.validation, range(5))
    assert matrix.compute().miou == 1.0
    assert shapes == {(64, 64, 3)}
