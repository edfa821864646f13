"""What a training run learns from and is evaluated on: batches, and a confusion matrix.

Shapes: `B` batch, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segvit.config import SegViTConfig
from segvit.datasets.folder import FolderDataset
from segvit.datasets.folder_evaluation import evaluate_folder
from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import evaluate_landcover
from segvit.datasets.landcover_training import TrainingTiles
from segvit.datasets.transforms import augment
from segvit.images import Image
from segvit.inference import Predict
from segvit.inference import Protocol as InferenceProtocol
from segvit.metrics import ConfusionMatrix


class TrainingData(Protocol):
    """One data set; `config` is the model's, with the data's classes."""

    config: SegViTConfig

    def batch(self, step: int, indices: range) -> tuple[Image, NDArray[np.int64]]:
        """Return the samples `indices` of a step's global batch, a pure function of both.

        Returns:
            uint8 images `(B, H, W, 3)`, int64 labels `(B, h, w)`, not always of the same size.
        """
        ...

    def evaluate(self, predict: Predict) -> ConfusionMatrix:
        """Return the confusion matrix of the validation images."""
        ...


class LandCoverTraining:
    """Land cover, its own tiles and protocol."""

    def __init__(self, config: SegViTConfig, seed: int) -> None:
        self.config = config
        self.tiles = TrainingTiles(LandCover(), seed)

    def batch(self, step: int, indices: range) -> tuple[Image, NDArray[np.int64]]:
        """Return tiles; see `TrainingData`."""
        return self.tiles.batch(step, indices)

    def evaluate(self, predict: Predict) -> ConfusionMatrix:
        """Return the matrix of the validation split."""
        return evaluate_landcover(predict, self.tiles.data, "val", progress=False)


class FolderTraining:
    """Folders of images and masks, by the published transforms and the sliding protocol.

    Every epoch is a permutation of its own; a batch may reach into the next.

    Args:
        config: the model's; its classes are replaced by the data's.
        train: what to learn from.
        val: what to evaluate on.
        batch_size: of the whole step, over all devices.
        seed: of every draw.
    """

    def __init__(
        self,
        config: SegViTConfig,
        train: FolderDataset,
        val: FolderDataset,
        batch_size: int,
        seed: int,
    ) -> None:
        self.config = replace(
            config,
            num_classes=len(train.class_names),
            class_names=train.class_names,
            palette=train.palette,
        )
        self.train, self.val = train, val
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int, indices: range) -> tuple[Image, NDArray[np.int64]]:
        """Return augmented crops; see `TrainingData`."""
        samples = [self._draw(step, index) for index in indices]
        images, masks = zip(*samples, strict=True)
        return np.stack(images), np.stack(masks).astype(np.int64)

    def evaluate(self, predict: Predict) -> ConfusionMatrix:
        """Return the matrix of the validation folder, in sliding windows."""
        protocol = InferenceProtocol.published(self.config, batch_size=self.batch_size)
        return evaluate_folder(predict, self.val, protocol, self.config.mean, progress=False)

    def _draw(self, step: int, index: int) -> tuple[Image, NDArray[np.uint8]]:
        epoch, position = divmod(step * self.batch_size + index, len(self.train))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        image, mask = self.train.read(self.train.samples[order[position]])
        rng = np.random.default_rng([self.seed, step, index])
        return augment(rng, image, mask, self.config.image_size, self.config.mean)
