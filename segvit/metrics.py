"""Segmentation metrics from an exact confusion matrix.

Shapes: `K` classes. Source: the mIoU protocol of mmsegmentation, which SegViT's numbers use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE_LABEL = 255

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class SegmentationMetrics:
    """Fractions from 0 to 1; a class absent from labels and predictions is NaN and not averaged."""

    iou: NDArray[np.float64]  # (K,)
    accuracy: NDArray[np.float64]  # (K,)
    miou: float
    mean_accuracy: float
    pixel_accuracy: float


class ConfusionMatrix:
    """Counts of (true, predicted) pairs, in integers: the order of updates does not matter."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, predicted: Labels, truth: Labels, reduce_zero_label: bool = False) -> None:
        """Count the pixels of predictions against the true labels of the same shape.

        Args:
            predicted: class ids.
            truth: class ids, 255 for ignored pixels.
            reduce_zero_label: 0 in `truth` means ignored and the other ids are one too high.

        Raises:
            ValueError: if the shapes differ or an id is no class.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"labels: expected {truth.shape} predictions, got {predicted.shape}")
        true = truth.astype(np.int64)
        if reduce_zero_label:
            true = np.where((true == 0) | (true == IGNORE_LABEL), IGNORE_LABEL, true - 1)
        counted = true != IGNORE_LABEL
        true, found = true[counted], predicted[counted].astype(np.int64)
        for name, ids in (("true", true), ("predicted", found)):
            if ids.size and not 0 <= ids.min() <= ids.max() < self.num_classes:
                raise ValueError(
                    f"{name} labels: expected 0 to {self.num_classes - 1} or {IGNORE_LABEL}, "
                    f"got {ids.min()} to {ids.max()}"
                )
        size = self.num_classes
        self.counts += np.bincount(true * size + found, minlength=size**2).reshape(size, size)

    def compute(self) -> SegmentationMetrics:
        """Return the metrics of everything counted so far."""
        hits = self.counts.diagonal().astype(np.float64)
        true, found = self.counts.sum(axis=1), self.counts.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, accuracy = hits / (true + found - hits), hits / true
            pixel_accuracy = float(hits.sum() / true.sum())
        return SegmentationMetrics(
            iou=iou,
            accuracy=accuracy,
            miou=_mean(iou),
            mean_accuracy=_mean(accuracy),
            pixel_accuracy=pixel_accuracy,
        )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
