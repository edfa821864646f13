"""Counting a model's labels against the truth, sample by sample, on any data set.

No torch: what predicts is a callable, the reference model's or an engine's.

Shapes: `B` batch, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from segvit.classes import Rgb
from segvit.images import Image, Labels
from segvit.inference import Predict
from segvit.metrics import ConfusionMatrix


class Labelled(NamedTuple):
    """A sample: RGB uint8 `(H, W, 3)`, found and true class ids `(H, W)`, 255 for ignored."""

    image: Image
    found: Labels
    truth: Labels


class EvaluationData(Protocol):
    """Images with true labels, and the protocol by which a model labels them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""
        ...

    @property
    def palette(self) -> tuple[Rgb, ...]:
        """One colour a class."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what a sample is called in reports; names are unique and plain."""
        ...

    def label(self, predict: Predict, index: int) -> Labelled:
        """Return a sample labelled by a model.

        Args:
            predict: crops uint8 `(B, h, w, 3)` to scores `(B, K, h, w)`.
            index: 0 to the length.

        Raises:
            UnreadableError: if one of its files is damaged.
            ValueError: if its mask does not fit.
        """
        ...


def count_samples(
    predict: Predict, data: EvaluationData, indices: Iterable[int]
) -> ConfusionMatrix:
    """Return the confusion matrix of some samples; matrices of disjoint ones add up exactly."""
    matrix = ConfusionMatrix(len(data.class_names))
    for index in indices:
        _, found, truth = data.label(predict, index)
        matrix.update(found, truth)
    return matrix
