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
    """Counts of (true, predicted) pairs, in integers: the order of updates does not matter.

    `counts` is `(K + 1, K)`. As in the protocol, a true id that is neither a class nor ignored
    makes whatever was predicted there wrong; its pixels are in the last row.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes + 1, num_classes), dtype=np.int64)

    def update(self, predicted: Labels, truth: Labels, reduce_zero_label: bool = False) -> None:
        """Count the pixels of predictions against the true labels of the same shape.

        Args:
            predicted: class ids.
            truth: class ids, 255 for ignored pixels.
            reduce_zero_label: 0 in `truth` means ignored and the other ids are one too high.

        Raises:
            ValueError: if the shapes differ or a predicted id is no class.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"labels: expected {truth.shape} predictions, got {predicted.shape}")
        true = truth.astype(np.int64)
        if reduce_zero_label:
            true = np.where((true == 0) | (true == IGNORE_LABEL), IGNORE_LABEL, true - 1)
        counted = true != IGNORE_LABEL
        true, found = true[counted], predicted[counted].astype(np.int64)
        size = self.num_classes
        if found.size and not 0 <= found.min() <= found.max() < size:
            raise ValueError(
                f"predicted labels: expected 0 to {size - 1}, got {found.min()} to {found.max()}"
            )
        true = np.where((true >= 0) & (true < size), true, size)
        pairs = np.bincount(true * size + found, minlength=(size + 1) * size)
        self.counts += pairs.reshape(size + 1, size)

    def compute(self) -> SegmentationMetrics:
        """Return the metrics of everything counted so far."""
        hits = self.counts.diagonal().astype(np.float64)
        true, found = self.counts[:-1].sum(axis=1), self.counts.sum(axis=0)
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
