"""Prove that an exported graph segments like the reference: compare two callables on images.

Shapes: `n` images, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segvit.metrics import ConfusionMatrix

Labels = NDArray[np.integer]
Scores = NDArray[np.floating]


class ParityError(RuntimeError):
    """The graph does not reproduce the reference; the message names the figure and its gate."""


@dataclass(frozen=True)
class Prediction:
    """What one side makes of a batch: labels `(n, H, W)` and scores `(n, K, H, W)`."""

    labels: Labels
    scores: Scores


Predict = Callable[[NDArray[np.uint8]], Prediction]


@dataclass(frozen=True)
class Gate:
    """The least a precision has to reach."""

    pixel_agreement: float
    miou_drop: float
    score_rms: float


# FP32 differs by summation order alone: one pixel in 10,000 covers exact ties. FP16 carries 11
# significant bits: pixels within 0.1 % of a tie may change, a class's borders may not. BF16
# carries 8: eight times FP16's rounding, eight times its gates. With random weights two thirds of
# all pixels are near-ties, so labels say nothing and only the scores' error counts: relative RMS,
# about 1e-6 seen in FP32 and 1e-3 in FP16. INT8 has 7 bits below the largest value and FP8 carries
# 4 bits, on the encoder's linears alone: 1.3e-2 and 4.1e-2 seen on ViT-B.
GATES = {
    "fp32": Gate(pixel_agreement=0.9999, miou_drop=0.0005, score_rms=1e-5),
    "fp16": Gate(pixel_agreement=0.999, miou_drop=0.001, score_rms=2e-3),
    "bf16": Gate(pixel_agreement=0.992, miou_drop=0.008, score_rms=1.6e-2),
    "int8": Gate(pixel_agreement=0.985, miou_drop=0.005, score_rms=5e-2),
    "fp8": Gate(pixel_agreement=0.985, miou_drop=0.005, score_rms=5e-2),
}


@dataclass(frozen=True)
class ParityReport:
    """How close a candidate comes to the reference.

    `score_rms` is the root mean square of the scores' difference over that of the reference's
    scores; `max_score_error` the largest difference. mIoU figures are fractions, and None without
    ground truth.
    """

    images: int
    pixel_agreement: float
    score_rms: float
    max_score_error: float
    miou_reference: float | None = None
    miou: float | None = None
    max_class_iou_drop: float | None = None


def compare(
    reference: Predict,
    candidate: Predict,
    images: NDArray[np.uint8],
    truth: Labels | None,
    num_classes: int,
    batch: int = 1,
    show_progress: bool = True,
    against_reference: bool = False,
) -> ParityReport:
    """Return how close `candidate` comes to `reference` on `images`.

    Args:
        images: uint8 `(n, H, W, 3)`; `batch` of them go to a call.
        truth: labels `(n, H, W)`, 255 ignored, or None where there are none.
        against_reference: without truth, take the reference's own labels for it; mIoU is then over
            the classes that these hold, or one stray pixel of another would weigh as a class.
    """
    matrices = [ConfusionMatrix(num_classes) for _ in range(2)]
    equal = pixels = 0
    squared_error = squared_score = max_error = 0.0
    progress = tqdm(total=len(images), desc="verify", unit="image", disable=not show_progress)
    with progress:
        for start in range(0, len(images), batch):
            part = _take_batch(images, start, batch)
            count = min(batch, len(images) - start)
            wanted, got = reference(part), candidate(part)
            equal += int((wanted.labels[:count] == got.labels[:count]).sum())
            pixels += wanted.labels[:count].size
            # A class at a time: in float64, all 150 of a 640-px image are 491 MB.
            for index in np.ndindex(count, wanted.scores.shape[1]):
                score = wanted.scores[index].astype(np.float64)  # (H, W)
                difference = got.scores[index] - score
                squared_error += float((difference**2).sum())
                squared_score += float((score**2).sum())
                max_error = max(max_error, float(np.abs(difference).max()))
            if truth is not None or against_reference:
                expected = wanted.labels[:count] if truth is None else truth[start : start + count]
                for matrix, side in zip(matrices, (wanted, got), strict=True):
                    matrix.update(side.labels[:count], expected)
            progress.update(count)
    report = ParityReport(
        images=len(images),
        pixel_agreement=equal / pixels,
        score_rms=(squared_error / max(squared_score, 1e-30)) ** 0.5,
        max_score_error=max_error,
    )
    if truth is None and not against_reference:
        return report
    return _with_miou(report, matrices[0], matrices[1], present_only=truth is None)


def _take_batch(images: NDArray[np.uint8], start: int, batch: int) -> NDArray[np.uint8]:
    """Return `batch` images from `start`, the last one repeated where they run out."""
    indices = np.minimum(np.arange(start, start + batch), len(images) - 1)
    return images[indices]


def _with_miou(
    report: ParityReport,
    reference: ConfusionMatrix,
    candidate: ConfusionMatrix,
    *,
    present_only: bool,
) -> ParityReport:
    before, after = reference.compute(), candidate.compute()
    drops = np.nan_to_num(before.iou - after.iou)
    present = ~np.isnan(before.iou)
    return replace(
        report,
        miou_reference=before.miou,
        miou=float(after.iou[present].mean()) if present_only else after.miou,
        max_class_iou_drop=float(drops.max(initial=0.0)),
    )


def check_parity(
    report: ParityReport,
    precision: str,
    random_weights: bool,
    max_miou_drop_points: float | None = None,
) -> None:
    """Raise `ParityError` where a report fails the gates of its precision.

    Random weights are gated on the scores alone, everything else on labels and mIoU.

    Args:
        max_miou_drop_points: the user's budget, in points of 100, instead of the gate's.
    """
    gate = GATES[precision]
    if max_miou_drop_points is not None:
        gate = replace(gate, miou_drop=max_miou_drop_points / 100)
    if random_weights:
        if not report.score_rms <= gate.score_rms:  # so that NaN fails
            raise ParityError(
                f"{precision} scores differ from PyTorch's by {report.score_rms:.2e} (relative "
                f"RMS), the gate is {gate.score_rms:.0e}; please report this model"
            )
        return
    advice = "try --bf16 or --fp32, or look for layers whose activations overflow"
    if report.pixel_agreement < gate.pixel_agreement:
        raise ParityError(
            f"{precision} labels agree with PyTorch's on {report.pixel_agreement:.5f} of all "
            f"pixels, the gate is {gate.pixel_agreement}; {advice}"
        )
    if report.miou is not None and report.miou_reference is not None:
        drop = report.miou_reference - report.miou
        if drop > gate.miou_drop:
            raise ParityError(
                f"{precision} loses {drop:.4f} mIoU ({report.miou_reference:.4f} to "
                f"{report.miou:.4f}), the gate is {gate.miou_drop}; {advice}"
            )
