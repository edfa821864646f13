"""The published protocols on a folder of images and masks."""

from __future__ import annotations

from dataclasses import dataclass

from segvit.classes import Rgb
from segvit.config import SegViTConfig
from segvit.datasets.folder import FolderDataset
from segvit.evaluation import Labelled
from segvit.inference import Predict, Protocol, label_image


@dataclass(frozen=True)
class FolderEvaluation:
    """Images and masks, each labelled at its own size; an `EvaluationData`.

    Args:
        data: images and masks.
        protocol: how an image becomes labels.
        fill: the pixel to pad small images with.
    """

    data: FolderDataset
    protocol: Protocol
    fill: tuple[float, float, float]

    @classmethod
    def published(
        cls, data: FolderDataset, config: SegViTConfig, batch_size: int = 1
    ) -> FolderEvaluation:
        """Return the evaluation by which a model's single-scale figure is published."""
        side, stride = config.image_size, config.stride or config.image_size
        protocol = Protocol.published(
            (side, side), (stride, stride), config.short_side or side, batch_size=batch_size
        )
        return cls(data, protocol, config.mean)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""
        return self.data.class_names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        """One colour a class."""
        return self.data.palette

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        """Return the stem of a sample's image file."""
        return self.data.samples[index].image.stem

    def label(self, predict: Predict, index: int) -> Labelled:
        """Return a sample labelled by a model; see `EvaluationData`."""
        image, mask = self.data.read(self.data.samples[index])
        return Labelled(image, label_image(predict, image, self.protocol, self.fill), mask)
