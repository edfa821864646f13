"""What a candidate's labels differ in from the reference's, counted image by image.

The images are the sample: intervals come from drawing them anew, with replacement, the same ones
for reference and candidate (a paired bootstrap), and recomputing every figure from integer counts.
Source: Bootstrap Methods: Another Look at the Jackknife (doi:10.1214/aos/1176344552).

Shapes: `n` images, `R` resamples, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.boundaries import WITHIN_PIXELS, count_within
from export.bootstrap import Floats, draw_weights, find_interval
from segvit.images import Labels
from segvit.metrics import ConfusionMatrix

Counts = NDArray[np.int64]  # (…, 3, K): hits, true and found pixels of each class
_PAIRS_SHOWN = 20


def count_classes(labels: Labels, truth: Labels, num_classes: int) -> Counts:
    """Return hits, true and found pixels `(3, K)` of an image; 255 in the truth is ignored."""
    matrix = ConfusionMatrix(num_classes)
    matrix.update(labels, truth)
    counts = matrix.counts
    return np.stack([counts.diagonal(), counts[:-1].sum(axis=1), counts.sum(axis=0)])


def compute_iou(counts: NDArray[Any]) -> Floats:
    """Return IoU `(…, K)` of counts `(…, 3, K)`; NaN where a class is neither true nor found."""
    hits, true, found = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / (true + found - hits), np.float64)


class ParityTally:
    """One candidate's differences from the reference; images are added one at a time.

    Args:
        class_names: one a class.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        size = len(self.class_names)
        self._counts: list[Counts] = []
        self._equal: list[tuple[int, int]] = []
        self._moves = np.zeros((size, size), np.int64)
        self._within = np.zeros((2, len(WITHIN_PIXELS)), np.int64)  # of changed and of all pixels

    def add(
        self,
        reference: Labels,
        found: Labels,
        truth: Labels,
        reference_counts: Counts,
        distance: NDArray[np.float32],
    ) -> None:
        """Count one image.

        Args:
            reference: the reference's labels `(H, W)`.
            found: the candidate's.
            truth: true labels, 255 for ignored pixels.
            reference_counts: `count_classes` of the reference against the truth.
            distance: `measure_boundary_distance` of the reference.

        Raises:
            ValueError: if shapes differ or a label is no class.
        """
        size = len(self.class_names)
        self._counts.append(np.stack([reference_counts, count_classes(found, truth, size)]))
        changed = reference != found
        pairs = reference[changed].astype(np.int64) * size + found[changed]
        self._moves += np.bincount(pairs, minlength=size * size).reshape(size, size)
        self._within += np.stack([count_within(distance[changed]), count_within(distance)])
        self._equal.append((int((~changed).sum()), changed.size))

    def summarise(self, resamples: int, seed: int) -> dict[str, Any]:
        """Return the JSON of all images counted, as `benchmarks.parity` describes it.

        Args:
            resamples: R; intervals are None of fewer than two images.
            seed: of the draws.
        """
        counts = np.stack(self._counts)  # (n, 2, 3, K)
        equal = np.array(self._equal, np.float64)  # (n, 2)
        drawn = draw_weights(len(counts), resamples, seed)  # (R, n)
        iou = compute_iou(counts.sum(axis=0))  # (2, K)
        sums = np.tensordot(drawn, counts.astype(np.float64), axes=1)  # (R, 2, 3, K)
        drawn_iou = compute_iou(sums)  # (R, 2, K)
        drawn_equal = drawn @ equal
        agreement = equal.sum(axis=0)
        miou = [_mean(values) for values in iou]
        drawn_miou = np.array([[_mean(values) for values in sides] for sides in drawn_iou])
        drawn_miou = drawn_miou.reshape(-1, 2)
        return {
            "images": len(counts),
            "pixels": int(agreement[1]),
            "pixel_agreement": float(agreement[0] / agreement[1]),
            "pixel_agreement_interval": find_interval(drawn_equal[:, 0] / drawn_equal[:, 1]),
            "miou_reference": _as_json(miou[0]),
            "miou": _as_json(miou[1]),
            "miou_delta": _as_json(miou[1] - miou[0]),
            "miou_delta_interval": find_interval(drawn_miou[:, 1] - drawn_miou[:, 0]),
            "classes": [
                {
                    "name": name,
                    "iou_reference": _as_json(iou[0, index]),
                    "iou": _as_json(iou[1, index]),
                    "iou_delta": _as_json(iou[1, index] - iou[0, index]),
                    "iou_delta_interval": find_interval(
                        drawn_iou[:, 1, index] - drawn_iou[:, 0, index]
                    ),
                }
                for index, name in enumerate(self.class_names)
            ],
            "changed": self._describe_changed(),
        }

    def _describe_changed(self) -> dict[str, Any]:
        changed, pixels = int(self._moves.sum()), sum(size for _, size in self._equal)
        order = np.argsort(-self._moves, axis=None, kind="stable")[:_PAIRS_SHOWN]
        moves = [divmod(int(index), len(self.class_names)) for index in order]
        shares = self._within / np.array([[max(changed, 1)], [pixels]])
        return {
            "pixels": changed,
            "share": changed / pixels,
            "moves": [
                {
                    "from": self.class_names[old],
                    "to": self.class_names[new],
                    "pixels": int(self._moves[old, new]),
                    "share": float(self._moves[old, new] / changed),
                }
                for old, new in moves
                if self._moves[old, new]
            ],
            "boundary_distance": [
                {"within_pixels": limit, "changed_share": near, "all_share": everywhere}
                for limit, near, everywhere in zip(WITHIN_PIXELS, *shares.tolist(), strict=True)
            ],
        }


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _as_json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
