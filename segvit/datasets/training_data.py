"""What a training run learns from and is evaluated on.

Shapes: `B` batch, `H, W` pixels.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from dataclasses import replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segvit.config import SegViTConfig
from segvit.datasets.folder import FolderDataset
from segvit.datasets.folder_evaluation import FolderEvaluation
from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import LandCoverTiles
from segvit.datasets.landcover_training import TrainingTiles
from segvit.datasets.transforms import Crop, augment
from segvit.evaluation import EvaluationData
from segvit.images import Size
from segvit.inference import LONGEST_SIDE


class Batch(NamedTuple):
    """Some samples of a step, on the CPU."""

    images: Tensor  # uint8 (B, H, W, 3)
    labels: Tensor  # uint8 (B, h, w), not always of the images' size; 255 for ignored
    sizes: Tensor  # int64 (B, 2): height and width of each image, beyond which is padding

    def split(self, count: int) -> list[Batch]:
        """Return the batch in so many parts of equal size."""
        return [Batch(*parts) for parts in zip(*(t.chunk(count) for t in self), strict=True)]


class TrainingData(Protocol):
    """One data set; `config` is the model's, with the data's classes."""

    config: SegViTConfig
    validation: EvaluationData

    def batch(self, step: int, indices: range) -> Batch:
        """Return the samples `indices` of a step's global batch, a pure function of both."""
        ...


class LandCoverTraining:
    """Land cover, its own tiles and protocol."""

    def __init__(self, config: SegViTConfig, seed: int) -> None:
        self.config = config
        self.tiles = TrainingTiles(LandCover(), seed)
        self.validation: EvaluationData = LandCoverTiles("val")

    def batch(self, step: int, indices: range) -> Batch:
        """Return tiles; see `TrainingData`."""
        images, labels = self.tiles.batch(step, indices)
        return _as_batch(images, labels, [(images.shape[1], images.shape[2])] * len(images))


class FolderTraining:
    """Images and masks, by the published transforms and the sliding protocol.

    Every epoch is a permutation of its own; a batch may reach into the next.

    Args:
        config: the model's; its classes are replaced by the data's.
        train: what to learn from.
        val: what to evaluate on.
        batch_size: of the whole step, over all devices.
        seed: of every draw.
        resize: see `TrainingSettings`.
    """

    def __init__(
        self,
        config: SegViTConfig,
        train: FolderDataset,
        val: FolderDataset,
        batch_size: int,
        seed: int,
        resize: Size | None = None,
    ) -> None:
        self.config = replace(
            config,
            num_classes=len(train.class_names),
            class_names=train.class_names,
            palette=train.palette,
        )
        self.train = train
        self.validation: EvaluationData = FolderEvaluation.published(val, self.config, batch_size)
        self.batch_size, self.seed = batch_size, seed
        self.resize = resize or (LONGEST_SIDE, config.image_size)

    def batch(self, step: int, indices: range) -> Batch:
        """Return augmented crops; see `TrainingData`.

        Raises:
            ValueError: if a file is damaged or a mask does not fit.
        """
        images, masks, sizes = zip(*(self._draw(step, index) for index in indices), strict=True)
        return _as_batch(np.stack(images), np.stack(masks), list(sizes))

    def _draw(self, step: int, index: int) -> Crop:
        epoch, position = divmod(step * self.batch_size + index, len(self.train))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        image, mask = self.train.read(self.train.samples[order[position]])
        rng = np.random.default_rng([self.seed, step, index])
        return augment(rng, image, mask, self.config.image_size, self.resize)


def iterate_batches(
    data: TrainingData, steps: range, indices: range, workers: int
) -> Generator[Batch, None, None]:
    """Yield the samples `indices` of each step's batch.

    Args:
        data: what to draw from.
        steps: in order.
        indices: this process's share.
        workers: processes that prepare batches ahead; 0 for none. The batches do not depend on it.
            They end with the iterator.

    Raises:
        ValueError: if a file is damaged or a mask does not fit.
        OSError: if a file cannot be read.
    """
    loader = DataLoader(
        _Steps(data, indices),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # the global one is left alone
    )
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a forked worker would wait forever for threads that it does not have
    batches = iter(loader)
    cv2.setNumThreads(threads)
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Steps(Dataset[Batch | Exception]):
    """The batches of each step, or why there is none: raised, it would come with two tracebacks."""

    def __init__(self, data: TrainingData, indices: range) -> None:
        self.data, self.indices = data, indices

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.data.batch(step, self.indices)
        except (ValueError, OSError) as error:
            return error


def _ignore_interrupts(index: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to handle


def _as_batch(images: NDArray[np.uint8], labels: NDArray[np.uint8], sizes: list[Size]) -> Batch:
    sides = torch.tensor(sizes, dtype=torch.int64)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), sides)
