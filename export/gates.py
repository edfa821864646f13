"""The least that a precision has to reach, and the check of a report against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from export.bootstrap import FEWEST_IMAGES
from export.class_parity import LEAST_PIXELS, MOST_OF_FEW
from export.parity_record import ClassParity, Interval, ParityReport, high_end, low_end


class ParityError(RuntimeError):
    """The graph does not reproduce the reference; the message names the figure and its gate."""


@dataclass(frozen=True)
class Gate:
    """The least a precision has to reach.

    Shares and drops are fractions. `class_recall` is of each class's pixels in the reference's
    labels, `class_iou` of each class against these, `class_iou_drop` against ground truth.
    """

    pixel_agreement: float
    miou_drop: float
    score_rms: float
    class_recall: float
    class_iou: float
    class_iou_drop: float


# FP32 differs by summation order alone: one pixel in 10,000 covers exact ties. FP16 carries 11
# significant bits: pixels within 0.1 % of a tie may change, a class's borders may not. BF16
# carries 8: eight times FP16's rounding, eight times its gates. With random weights two thirds of
# all pixels are near-ties, so labels say nothing and only the scores' error counts: relative RMS,
# about 1e-6 seen in FP32 and 1e-3 in FP16. INT8 has 7 bits below the largest value and FP8 carries
# 4 bits, on the encoder's linears alone: 1.3e-2 and 4.1e-2 seen on ViT-B.
#
# A rare class is nearly all border and changes more than all pixels do: the worst of the shipped
# models' on 64 tiles keeps, at the lower end of its interval, 0.998 of its pixels in FP16, 0.994 in
# BF16, 0.989 in INT8 and 0.952 in FP8. Gates allow twice FP8's loss, to INT8 too, and ten times
# the others', which a class a tenth as common may need. An IoU counts what a class loses and what
# it gains; against ground truth much of both cancels.
GATES = {
    "fp32": Gate(0.9999, 0.0005, 1e-5, class_recall=0.99, class_iou=0.98, class_iou_drop=0.005),
    "fp16": Gate(0.999, 0.001, 2e-3, class_recall=0.98, class_iou=0.96, class_iou_drop=0.01),
    "bf16": Gate(0.992, 0.008, 1.6e-2, class_recall=0.93, class_iou=0.87, class_iou_drop=0.03),
    "int8": Gate(0.985, 0.005, 5e-2, class_recall=0.9, class_iou=0.85, class_iou_drop=0.03),
    "fp8": Gate(0.985, 0.005, 5e-2, class_recall=0.9, class_iou=0.85, class_iou_drop=0.03),
}
# A class that too few images hold for an interval may lose so many times as much in one of them,
# and less in several, as the spread of a mean falls: of 954 classes of 30 pixels or more in one
# tile, FP8 kept 0.64 of the worst and INT8 0.86; no more than `MOST_OF_FEW` in any case.
_ONE_IMAGE = 4
# What else to try; options of `export.build` that every build of the precision takes.
_ADVICE = {
    "fp32": "please report this model",
    "fp16": "try --bf16 or --fp32, or look for layers whose activations overflow",
    "bf16": "try --fp16, which rounds an eighth as much, or --fp32",
    "int8": "calibrate on more images of the kind it will see (--calibration-images, "
    "--num-calibration-images), or try --fp16",
    "fp8": "calibrate on more images of the kind it will see (--calibration-images, "
    "--num-calibration-images), or try --int8 or --fp16",
}


def check_parity(
    report: ParityReport,
    precision: str,
    random_weights: bool,
    max_miou_drop_points: float | None = None,
    advice: str | None = None,
) -> None:
    """Raise `ParityError` where a report fails the gates of its precision.

    Random weights are gated on the scores alone, everything else on labels, mIoU, every class with
    enough pixels, and scores. The worse end of an interval is what counts, and the figure itself
    where there are too few images for an interval.

    Args:
        max_miou_drop_points: the user's budget, in points of 100, instead of the gate's.
        advice: what to try, instead of what helps most builds.
    """
    gate = GATES[precision]
    if max_miou_drop_points is not None:
        gate = replace(gate, miou_drop=max_miou_drop_points / 100)
    failures = _find_failures(report, gate, random_weights)
    if failures:
        shown, more = ", and ".join(failures[:2]), ""
        if len(failures) > 2:
            more = f" (and misses {len(failures) - 2} more gates)"
        advice = advice or _ADVICE[precision]
        if not _find_failures(_strip_intervals(report), gate, random_weights):
            advice = (
                f"verify on more images (--num-images), which narrows the interval, or {advice}"
            )
        raise ParityError(f"{precision} {shown}{more}; {advice}")


def _find_failures(report: ParityReport, gate: Gate, random_weights: bool) -> list[str]:
    """Return a sentence, without its subject, for every gate that is missed."""
    failures = [] if random_weights else [*_check_labels(report, gate),
                                          *find_class_failures(report.classes, gate),
                                          *_find_inventions(report)]  # fmt: skip
    if not isfinite(report.score_rms):
        failures.insert(0, _describe_scores(report, gate) + ": some scores are no finite numbers")
    elif not high_end(report.score_rms, report.score_rms_interval) <= gate.score_rms:
        failures.append(_describe_scores(report, gate))
    return failures


def _strip_intervals(report: ParityReport) -> ParityReport:
    """Return a report as if its figures were exact."""

    def pin(value: float | None) -> Interval | None:
        return None if value is None else (value, value)

    return replace(
        report,
        pixel_agreement_interval=None,
        miou_drop_interval=None,
        score_rms_interval=None,
        classes=tuple(
            replace(
                entry,
                recall_interval=entry.recall_interval and pin(entry.recall),
                iou_interval=entry.iou_interval and pin(entry.iou),
                iou_drop_interval=entry.iou_drop_interval and pin(entry.iou_drop),
            )
            for entry in report.classes
        ),
    )


def find_class_failures(classes: Sequence[ClassParity], gate: Gate) -> Iterator[str]:
    """Yield a sentence, without its subject, for every class that fails, the worst first."""
    gated = [entry for entry in classes if entry.is_gated]
    for entry in sorted(gated, key=lambda entry: low_end(entry.recall, entry.recall_interval)):
        failure = _check_class(entry, gate)
        if failure is not None:
            yield failure


def _find_inventions(report: ParityReport) -> Iterator[str]:
    for name, pixels in report.invented_classes.items():
        yield f"invents class '{name}': {pixels:,} pixels that PyTorch gives to other classes"


def _check_class(entry: ClassParity, gate: Gate) -> str | None:
    where = f"class '{entry.name}' ({entry.pixels:,} pixels of {_count(entry.images)})"
    if entry.recall == 0:
        return f"loses {where} whole: no pixel of it is left"
    least = 1 - _allow(1 - gate.class_recall, entry, entry.recall_interval)
    if not low_end(entry.recall, entry.recall_interval) >= least:
        return (
            f"keeps {entry.recall:.4f}{show_interval(entry.recall_interval)} of {where}, the gate "
            f"is {least:.4g}"
        )
    least = 1 - _allow(1 - gate.class_iou, entry, entry.iou_interval)
    if not low_end(entry.iou, entry.iou_interval) >= least:
        return (
            f"changes {where}: IoU with PyTorch's labels {entry.iou:.4f}"
            f"{show_interval(entry.iou_interval)}, the gate is {least:.4g}"
        )
    drop, most = entry.iou_drop, _allow(gate.class_iou_drop, entry, entry.iou_drop_interval)
    if drop is None or entry.truth_pixels < LEAST_PIXELS:
        return None
    if not high_end(drop, entry.iou_drop_interval) <= most:
        return (
            f"loses {drop:.4f}{show_interval(entry.iou_drop_interval)} IoU of {where}, the gate "
            f"is {most:.4g}"
        )
    return None


def _allow(loss: float, entry: ClassParity, interval: Interval | None) -> float:
    """Return the loss that a class may show, given what is allowed of many images and pixels.

    Of n pixels that all keep their class, the rule of three cannot tell a loss of 3/n from none.
    """
    if interval is None:
        loss = max(loss, min(_ONE_IMAGE * loss / max(entry.images, 1) ** 0.5, MOST_OF_FEW))
    return max(loss, 3 / entry.pixels)


def _check_labels(report: ParityReport, gate: Gate) -> Iterator[str]:
    interval = report.pixel_agreement_interval
    if not low_end(report.pixel_agreement, interval) >= gate.pixel_agreement:
        yield (
            f"labels agree with PyTorch's on {report.pixel_agreement:.5f}"
            f"{show_interval(interval, '.5f')} of all pixels, the gate is {gate.pixel_agreement}"
        )
    if report.miou is None or report.miou_reference is None:
        return
    drop, interval = report.miou_reference - report.miou, report.miou_drop_interval
    if not high_end(drop, interval) <= gate.miou_drop:
        yield (
            f"loses {drop:.4f}{show_interval(interval)} mIoU ({report.miou_reference:.4f} to "
            f"{report.miou:.4f}), the gate is {gate.miou_drop}"
        )


def _describe_scores(report: ParityReport, gate: Gate) -> str:
    interval = show_interval(report.score_rms_interval, ".1e")
    return (
        f"scores differ from PyTorch's by {report.score_rms:.2e}{interval} (relative RMS), the "
        f"gate is {gate.score_rms:.1e}"
    )


def _count(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"


def show_interval(interval: Interval | None, style: str = ".4f") -> str:
    """Return ` (low to high)`, or nothing where there is no interval."""
    return "" if interval is None else f" ({interval[0]:{style}} to {interval[1]:{style}})"


def describe_intervals(images: int) -> str:
    """Return what intervals there are of so many images."""
    if images < FEWEST_IMAGES:
        return f"no intervals: they mean little below {FEWEST_IMAGES} images"
    return "in brackets 95 % intervals over images, whose worse end is gated"
