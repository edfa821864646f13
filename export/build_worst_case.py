"""The part of `export.build` that tries attention summed in FP16, as engines may do unasked."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from math import isfinite

import numpy as np

from export.check_images import CheckImages
from export.manifest_records import WorstCase
from export.parity_record import ParityReport
from export.reference import Reference
from export.score_reader import ScoreReader
from export.verify import GATES, compare
from segvit.config import SegViTConfig

NAME = "worst case: attention sums in FP16"
# One image in so many: the main comparison says how good, this one how much worse.
_IMAGES_A_LOOK = 4


def try_worst_case(
    arguments: argparse.Namespace,
    reference: Reference,
    open_reader: Callable[..., ScoreReader],
    check: CheckImages,
    config: SegViTConfig,
    say: Callable[[str], None],
) -> tuple[WorstCase | None, tuple[str, ...]]:
    """Compare the graph, its attention summed in FP16, with PyTorch on some of the images.

    Returns what the manifest keeps of it, None for a graph without FP16 attention and for one whose
    main comparison is this one, and warnings.

    Args:
        open_reader: of the graph; takes `half_sums`.
    """
    if arguments.precision == "fp32" or arguments.attention == "fp16-sums":
        return None, ()  # the latter is compared on all images
    reader = open_reader(half_sums=True)
    if not reader.sums_in_half:
        return None, ()
    chosen = np.arange(0, len(check.images), _IMAGES_A_LOOK)
    shares, random = check.independent_shares, arguments.random_weights
    report = compare(
        reference,
        reader,
        check.images[chosen],
        None if check.truth is None else check.truth[chosen],
        config.num_classes,
        batch=arguments.batch[1],
        show_progress=not arguments.json,
        class_names=config.class_names,
        independent_shares=None if shares is None else shares[chosen],
    )
    reader.close()
    say(_describe(report, check.source, random))
    return _record(report, random), tuple(_warn(report, arguments.precision, random))


def _describe(report: ParityReport, source: str, random_weights: bool) -> str:
    parts = [f"scores off by {report.score_rms:.1e} RMS, {report.max_score_error:.1e} at most"]
    if not random_weights:
        parts.insert(0, f"{report.pixel_agreement:.5f} of pixels equal")
        if report.miou is not None:
            parts.insert(1, f"mIoU {report.miou_reference:.4f} (PyTorch) {report.miou:.4f}")
    return f"{NAME}, on {report.images} of {source}: {', '.join(parts)}"


def _warn(report: ParityReport, precision: str, random_weights: bool) -> Iterator[str]:
    """Yield a warning where such sums fail a gate that the graph as written meets."""
    gate = GATES[precision]
    if not report.score_rms <= gate.score_rms:
        failed = f"scores off by {report.score_rms:.1e} RMS, the gate is {gate.score_rms:.0e}"
    elif not random_weights and report.pixel_agreement < gate.pixel_agreement:
        failed = f"{report.pixel_agreement:.5f} of pixels, the gate is {gate.pixel_agreement}"
    else:
        return
    yield f"{NAME}: {failed}; use targets alone whose attention is audited to be summed in FP32"


def _record(report: ParityReport, random_weights: bool) -> WorstCase:
    known = report.miou is not None and not random_weights
    return WorstCase(
        name=NAME,
        images=report.images,
        pixel_agreement=None if random_weights else report.pixel_agreement,
        miou_reference=report.miou_reference if known else None,
        miou=report.miou if known else None,
        max_class_iou_drop=report.max_class_iou_drop if known else None,
        max_score_error=report.max_score_error if isfinite(report.max_score_error) else None,
        score_rms=report.score_rms if isfinite(report.score_rms) else None,
    )
