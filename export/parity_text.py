"""What a build says of its parity with PyTorch, and what its manifest keeps of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from export.class_parity import LEAST_PIXELS
from export.gates import describe_intervals, show_interval
from export.manifest_records import Parity
from export.parity_record import ParityReport

NO_TRUTH = (
    "no ground truth: mIoU was not measured, and classes were gated against PyTorch's own labels; "
    "give --images and --masks"
)
_FLOAT_SUMS = "--attention fp32-sums"
_NAMES_SHOWN = 5


def describe_report(report: ParityReport, source: str, random_weights: bool) -> Iterator[str]:
    """Yield the lines that a build says of a comparison.

    Args:
        source: the images, as in "64 land-cover test tiles".
        random_weights: whether labels are near-ties that say nothing.
    """
    scores = (
        f"scores off by {report.score_rms:.1e}{show_interval(report.score_rms_interval, '.1e')} "
        f"RMS, {report.max_score_error:.1e} at most"
    )
    if random_weights:
        yield (
            f"parity on {source}: {scores}, labels of random weights are near-ties and not compared"
        )
        return
    parts = [
        f"{report.pixel_agreement:.5f}{show_interval(report.pixel_agreement_interval, '.5f')} of "
        f"{report.independent_pixels:,} independent pixels equal"
    ]
    if report.miou is not None and report.miou_reference is not None:
        parts.append(
            f"mIoU {report.miou_reference:.4f} (PyTorch) {report.miou:.4f} (exported), a drop of "
            f"{report.miou_reference - report.miou:z.4f}{show_interval(report.miou_drop_interval)}"
        )
        parts.append(f"largest class drop {report.max_class_iou_drop:.4f}")
    yield f"parity on {source}: {', '.join((*parts, scores))}"
    worst = report.worst_class
    kept = "no class has pixels enough for a gate"
    if worst is not None and worst.recall is not None:
        kept = (
            f"'{worst.name}' is the worst, {worst.recall:.4f}"
            f"{show_interval(worst.recall_interval)} of its {worst.pixels:,} pixels kept"
        )
    yield f"parity of classes: {kept}; {describe_intervals(report.images)}"
    for names, what in (
        (report.ungated_classes, f"classes not gated, of fewer than {LEAST_PIXELS} pixels"),
        (report.unexercised_classes, "classes that no image holds"),
    ):
        if names:
            yield f"{what}: {_list_names(names)}"


def record_report(
    report: ParityReport, source: str, random_weights: bool, foreign: bool = False
) -> Parity:
    """Return what a manifest keeps of a comparison.

    Args:
        source: the images, as `describe_report` takes it.
        random_weights: whether labels say nothing.
        foreign: whether the images are not of the kind that the model's classes were made for.
    """
    details: dict[str, bool | int | float | str | None] = {
        "source": source,
        "score_rms": report.score_rms,
    }
    if not report.images_with_masks and report.miou is not None:
        details["miou"] = "against PyTorch's own labels, over the classes that these hold"
    if random_weights:
        details["note"] = "random weights: near-ties make labels meaningless, scores are gated"
    worst = None if random_weights else report.worst_class
    return Parity(
        images=report.images,
        pixel_agreement=None if random_weights else report.pixel_agreement,
        miou_reference=report.miou_reference,
        miou=report.miou,
        max_class_iou_drop=report.max_class_iou_drop,
        max_score_error=report.max_score_error,
        details=details,
        independent_pixels=report.independent_pixels,
        images_with_masks=report.images_with_masks,
        pixel_agreement_interval=None if random_weights else report.pixel_agreement_interval,
        miou_drop_interval=report.miou_drop_interval,
        score_rms_interval=report.score_rms_interval,
        worst_class=worst.name if worst else None,
        worst_class_recall=worst.recall if worst else None,
        classes=() if random_weights else report.classes,
        ungated_classes=() if random_weights else report.ungated_classes,
        unexercised_classes=() if random_weights else report.unexercised_classes,
        foreign_images=foreign,
    )


def suggest_fix(arguments: argparse.Namespace) -> str | None:
    """Return what a build that fails its gates had better try, None where nothing is special.

    Args:
        arguments: of `export.build`, which decide what options it may take.
    """
    in_half = arguments.attention == "fp16-sums"
    if arguments.precision not in ("int8", "fp8"):
        return f"sum attention in FP32 ({_FLOAT_SUMS}), or build with --fp32" if in_half else None
    tries = ["measure --ranges again on more images of the kind it will see"]
    if arguments.ranges is None:
        tries = ["calibrate on more images of the kind it will see (--calibration-images, "
                 "--num-calibration-images)"]  # fmt: skip
    if arguments.max_miou_drop is not None:
        tries.append("allow the search less with --max-miou-drop")
    elif _can_search(arguments):
        tries.append("search a mixed precision with --max-miou-drop")
    if in_half:
        tries.append(f"sum attention in FP32 ({_FLOAT_SUMS})")
    if arguments.quantise_attention:
        tries.append("leave out --quantise-attention")
    return f"{', or '.join(tries)}, or build with --fp16"


def _can_search(arguments: argparse.Namespace) -> bool:
    """Return whether the command would take --max-miou-drop as well."""
    refused = (
        arguments.mode != "whole",
        arguments.resize_from,
        arguments.random_weights,
        arguments.quantise_attention,
        arguments.float_type == "bf16",
        arguments.batch[0] != arguments.batch[2],
        arguments.target == ["openvino"],
    )
    return not any(refused)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
