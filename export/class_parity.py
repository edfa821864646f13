"""Counts of a comparison, image by image and class by class, and the figures that they give.

Shapes: `n` images, `R` resamples, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bootstrap import FEWEST_IMAGES, RESAMPLES, Floats, draw_weights, find_interval
from export.parity_record import ClassParity, Interval, ParityReport
from segvit.metrics import IGNORE_LABEL

Labels = NDArray[np.integer]
Counts = NDArray[Any]  # (…, 8, K), integers, or floats of resamples
# A class of fewer pixels is listed and not gated: of 30 pixels that all keep their class, the rule
# of three (3/n bounds a rate never seen, at 95 %) still allows a loss of a tenth, the most that any
# gate allows; and so few pixels are one or two spots, whose near-ties turn together.
# Source: If Nothing Goes Wrong, Is Everything All Right? (doi:10.1001/jama.1983.03330370053031).
LEAST_PIXELS = 30
# The largest share that a class of one or a few images may lose.
MOST_OF_FEW = 0.6
_REFERENCE, _FOUND, _BOTH = range(3)  # over all pixels
_HITS_REFERENCE, _HITS, _TRUE, _REFERENCE_KNOWN, _FOUND_KNOWN = range(3, 8)  # where truth is known


class ParityTally:
    """What a candidate's labels and scores differ in from the reference's.

    Args:
        class_names: one a class.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = tuple(class_names)
        self._counts: list[Counts] = []
        self._squares: list[tuple[float, float]] = []
        self._shares: list[float] = []
        self._max_error = 0.0

    def add_labels(
        self, reference: Labels, found: Labels, truth: Labels | None, independent_share: float = 1.0
    ) -> None:
        """Count an image's labels `(H, W)`.

        Args:
            truth: 255 ignored, or None where nobody knows it.
            independent_share: of the pixels; the others only repeat their neighbors.

        Raises:
            ValueError: if the truth has another shape.
        """
        count = self._count
        rows = [count(reference), count(found), count(reference[reference == found])]
        if truth is None:
            truth = np.full(reference.shape, IGNORE_LABEL, np.uint8)
        if truth.shape != reference.shape:
            raise ValueError(f"labels: expected {truth.shape} predictions, got {reference.shape}")
        known = truth != IGNORE_LABEL
        true, sides = truth[known], (reference[known], found[known])
        rows += [count(side[side == true]) for side in sides]
        rows += [count(true), *map(count, sides)]
        self._counts.append(np.stack(rows))
        self._shares.append(independent_share)

    def add_scores(self, reference: NDArray[np.floating], found: NDArray[np.floating]) -> None:
        """Count an image's scores `(K, h, w)`."""
        squared_error = squared_score = 0.0
        # A class at a time: in float64, all 150 of a 640-px image are 491 MB.
        for wanted, got in zip(reference, found, strict=True):
            score = wanted.astype(np.float64)
            difference = got - score
            squared_error += float((difference**2).sum())
            squared_score += float((score**2).sum())
            self._max_error = float(np.maximum(self._max_error, np.abs(difference).max()))
        self._squares.append((squared_error, squared_score))

    def summarize(self, against_reference: bool = False, seed: int = 0) -> ParityReport:
        """Return the figures of all images counted.

        Args:
            against_reference: where no image has truth, take the reference's own labels for it.
            seed: of the bootstrap's draws.
        """
        counts = np.stack(self._counts)  # (n, 8, K)
        total = counts.sum(axis=0)
        masked = int((counts[:, _FOUND_KNOWN].sum(axis=1) > 0).sum())
        weights = draw_weights(len(counts), RESAMPLES if len(counts) >= FEWEST_IMAGES else 0, seed)
        drawn = np.tensordot(weights, counts.astype(np.float64), axes=1)  # (R, 8, K)
        squares = np.array(self._squares)  # (n, 2)
        report = ParityReport(
            images=len(counts),
            pixel_agreement=float(_agree(total)),
            score_rms=float(_relate(squares.sum(axis=0))),
            max_score_error=self._max_error,
            independent_pixels=round(float(counts[:, _REFERENCE].sum(axis=1) @ self._shares)),
            images_with_masks=masked,
            pixel_agreement_interval=find_interval(_agree(drawn)),
            score_rms_interval=find_interval(_relate(weights @ squares)),
            classes=self._describe_classes(counts, drawn),
            invented_classes=self._find_invented(counts),
            unexercised_classes=tuple(
                name for index, name in enumerate(self._names)
                if not total[_REFERENCE, index] and not total[_TRUE, index]
            ),
        )  # fmt: skip
        if not masked and not against_reference:
            return report
        before, after = _compute_iou(total, masked > 0)
        drawn_before, drawn_after = _compute_iou(drawn, masked > 0)
        is_few = 0 < masked < FEWEST_IMAGES
        return replace(
            report,
            miou_reference=float(_average(before)),
            miou=float(_average(after)),
            max_class_iou_drop=float(np.nan_to_num(before - after).max(initial=0.0)),
            miou_drop_interval=None if is_few
            else find_interval(_average(drawn_before) - _average(drawn_after)),
        )  # fmt: skip

    def _count(self, labels: Labels) -> NDArray[np.int64]:
        size = len(self._names)
        ids = labels.reshape(-1).astype(np.int64)
        # An id that is no class, which only a truth may hold, makes what was found there wrong.
        return np.bincount(ids[(ids >= 0) & (ids < size)], minlength=size)

    def _find_invented(self, counts: Counts) -> dict[str, int]:
        """Return the independent pixels of classes that the candidate alone finds."""
        pixels = np.rint(np.tensordot(self._shares, counts, axes=1)).astype(int)  # (8, K)
        reference, found, both = pixels[_REFERENCE], pixels[_FOUND], pixels[_BOTH]
        # The reverse of a class that is lost, and as much of it is noise.
        invented = (
            (reference < LEAST_PIXELS)
            & (found >= LEAST_PIXELS)
            & (both < (1 - MOST_OF_FEW) * found)
        )
        return {name: int(found[k]) for k, name in enumerate(self._names) if invented[k]}

    def _describe_classes(self, counts: Counts, drawn: Counts) -> tuple[ClassParity, ...]:
        """Return the classes that the reference's labels or the truth hold."""
        total = counts.sum(axis=0)
        pixels = np.rint(np.tensordot(self._shares, counts, axes=1)).astype(int)  # (8, K)
        images = (counts[:, _REFERENCE] > 0).sum(axis=0)
        images_known = ((counts[:, _TRUE] + counts[:, _REFERENCE_KNOWN]) > 0).sum(axis=0)
        (recall, iou), (drawn_recall, drawn_iou) = map(_compare_labels, (total, drawn))
        before, after = _compute_iou(total, has_truth=True)
        drawn_before, drawn_after = _compute_iou(drawn, has_truth=True)
        return tuple(
            ClassParity(
                name=name,
                pixels=int(pixels[_REFERENCE, k]),
                images=int(images[k]),
                is_gated=bool(pixels[_REFERENCE, k] >= LEAST_PIXELS),
                recall=_as_figure(recall[k]),
                iou=_as_figure(iou[k]),
                recall_interval=_bound(drawn_recall[:, k], images[k]),
                iou_interval=_bound(drawn_iou[:, k], images[k]),
                truth_pixels=int(pixels[_REFERENCE_KNOWN, k]),
                iou_reference=_as_figure(before[k]),
                iou_exported=_as_figure(after[k]),
                iou_drop_interval=_bound(drawn_before[:, k] - drawn_after[:, k], images_known[k]),
            )
            for k, name in enumerate(self._names)
            if total[_REFERENCE, k] or total[_TRUE, k]
        )


def find_lost_class(
    labels: Labels,
    found: Labels,
    names: Sequence[str],
    shares: NDArray[np.floating] | None = None,
) -> str | None:
    """Return a class with pixels enough for a gate in `labels` of which `found` keeps none.

    Args:
        labels: `(n, H, W)`.
        found: `(n, H, W)`.
        names: one a class.
        shares: `(n,)`, of each image's pixels that are independent; None takes all of them.
    """
    weights = np.ones(len(labels)) if shares is None else shares
    for index, name in enumerate(names):
        holds = labels == index  # (n, H, W)
        pixels = round(float(holds.sum(axis=(1, 2)) @ weights))
        if pixels >= LEAST_PIXELS and not (found[holds] == index).any():
            return name
    return None


def _bound(drawn: Floats, images: int) -> Interval | None:
    """Return the interval of a class that enough images hold."""
    return find_interval(drawn) if images >= FEWEST_IMAGES else None


def _agree(counts: Counts) -> Floats:
    """Return the share of pixels with equal labels, `(…)` of counts `(…, 8, K)`."""
    return np.asarray(counts[..., _BOTH, :].sum(axis=-1) / counts[..., _REFERENCE, :].sum(axis=-1))


def _relate(squares: Floats) -> Floats:
    """Return relative RMS `(…)` of sums of squared errors and scores `(…, 2)`."""
    return np.asarray(np.sqrt(squares[..., 0] / np.maximum(squares[..., 1], 1e-30)))


def _compare_labels(counts: Counts) -> tuple[Floats, Floats]:
    """Return recall and IoU of the candidate's labels against the reference's, `(…, K)` each."""
    reference, found, both = (counts[..., row, :] for row in (_REFERENCE, _FOUND, _BOTH))
    with np.errstate(invalid="ignore"):
        return both / reference, both / (reference + found - both)


def _compute_iou(counts: Counts, has_truth: bool) -> tuple[Floats, Floats]:
    """Return IoU of reference and candidate, `(…, K)` each; NaN where there is no such class.

    Without truth, against the reference's own labels. Over the classes that the truth or the
    reference's labels hold: one stray pixel of another, gained or lost, would weigh as a class.
    """
    if not has_truth:
        present = counts[..., _REFERENCE, :] > 0
        _, iou = _compare_labels(counts)
        return np.where(present, 1.0, np.nan), np.where(present, iou, np.nan)
    true = counts[..., _TRUE, :]
    present = (true + counts[..., _REFERENCE_KNOWN, :]) > 0
    sides = ((_HITS_REFERENCE, _REFERENCE_KNOWN), (_HITS, _FOUND_KNOWN))
    with np.errstate(invalid="ignore"):
        before, after = (
            counts[..., hits, :] / (true + counts[..., found, :] - counts[..., hits, :])
            for hits, found in sides
        )
    return np.where(present, before, np.nan), np.where(present, np.nan_to_num(after), np.nan)


def _average(iou: Floats) -> Floats:
    """Return the mean over the classes that are not NaN, `(…)` of `(…, K)`."""
    known = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(iou, axis=-1) / known.sum(axis=-1))


def _as_figure(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)
