"""Prove that an exported graph segments like the reference: compare two callables on images.

Shapes: `n` images, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.class_parity import Labels, ParityTally
from export.gates import GATES, Gate, ParityError, check_parity
from export.parity_record import ParityReport

__all__ = [
    "GATES",
    "Gate",
    "Labels",
    "ParityError",
    "ParityReport",
    "Predict",
    "Prediction",
    "Scores",
    "check_parity",
    "compare",
]

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Prediction:
    """What one side makes of a batch: labels `(n, H, W)` and scores `(n, K, H, W)`."""

    labels: Labels
    scores: Scores


Predict = Callable[[NDArray[np.uint8]], Prediction]


def compare(
    reference: Predict,
    candidate: Predict,
    images: NDArray[np.uint8],
    truth: Labels | None,
    num_classes: int,
    batch: int = 1,
    show_progress: bool = True,
    against_reference: bool = False,
    class_names: Sequence[str] = (),
    independent_shares: NDArray[np.floating] | None = None,
) -> ParityReport:
    """Return how close `candidate` comes to `reference` on `images`.

    Args:
        images: uint8 `(n, H, W, 3)`; `batch` of them go to a call.
        truth: labels `(n, H, W)`, 255 ignored, or None where there are none; an image of which all
            is ignored counts for agreement alone.
        against_reference: without truth, take the reference's own labels for it; mIoU is then over
            the classes that these hold, or one stray pixel of another would weigh as a class.
        class_names: one a class, numbered where there are none.
        independent_shares: `(n,)`, of each image's pixels, where the others only repeat their
            neighbors; None takes all pixels for independent.
    """
    tally = ParityTally(class_names or [f"class {index}" for index in range(num_classes)])
    shares = np.ones(len(images)) if independent_shares is None else independent_shares
    progress = tqdm(total=len(images), desc="verify", unit="image", disable=not show_progress)
    with progress:
        for start in range(0, len(images), batch):
            part = _take_batch(images, start, batch)
            count = min(batch, len(images) - start)
            wanted, got = reference(part), candidate(part)
            for index in range(count):
                known = None if truth is None else truth[start + index]
                share = float(shares[start + index])
                tally.add_labels(wanted.labels[index], got.labels[index], known, share)
                tally.add_scores(wanted.scores[index], got.scores[index])
            progress.update(count)
    return tally.summarize(against_reference)


def _take_batch(images: NDArray[np.uint8], start: int, batch: int) -> NDArray[np.uint8]:
    """Return `batch` images from `start`, the last one repeated where they run out."""
    indices = np.minimum(np.arange(start, start + batch), len(images) - 1)
    return images[indices]
