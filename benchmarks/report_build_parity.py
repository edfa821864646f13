"""What the report shows of the parity that a build measured: of all pixels, and of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.report_artifact import Subject
from benchmarks.report_tables import Table, code, figure, make_table
from export.manifest_records import Parity

_CLASSES_SHOWN = 25


def describe_build_parity(group: Sequence[Subject]) -> dict[str, list[Table] | list[str]]:
    """Return the tables, a table an artifact's classes among them, and notes."""
    tables = [_table_parity(group), _table_worst_case(group), *map(_table_classes, group),
              *map(_table_ranges, group)]  # fmt: skip
    return {
        "tables": [table for table in tables if table],
        "notes": [note for subject in group for note in _list_notes(subject)],
    }


def _table_parity(group: Sequence[Subject]) -> Table | None:
    rows = []
    for subject in group:
        parity, gate = subject.manifest.parity, subject.gate
        if parity:
            rows.append(
                (subject.name, subject.manifest.precision.upper(), figure(parity.images, "d"),
                 figure(parity.independent_pixels, ",d"),
                 figure(parity.pixel_agreement, ".5f", parity.pixel_agreement_interval),
                 figure(gate.pixel_agreement, "g"),
                 figure(parity.miou_reference, ".4f"), figure(parity.miou, ".4f"),
                 figure(_find_drop(parity), "z.4f", parity.miou_drop_interval),
                 figure(parity.max_class_iou_drop, ".4f"),
                 parity.worst_class, figure(parity.worst_class_recall, ".4f"),
                 figure(_find_rms(parity), ".1e", parity.score_rms_interval),
                 figure(parity.max_score_error, ".1e"))
            )  # fmt: skip
    return make_table(
        "At build time, against PyTorch in FP32; in brackets 95 % intervals",
        ("Artifact", "Precision", "Images", "Independent pixels", "Pixels equal", "Gate",
         "mIoU, PyTorch", "mIoU", "Drop", "Largest class drop", "Worst class",
         "Of its pixels kept", "Score error, RMS", "Largest score error"),
        rows,
    )  # fmt: skip


def _table_worst_case(group: Sequence[Subject]) -> Table | None:
    cases = [(subject, subject.manifest.parity.worst_case) for subject in group
             if subject.manifest.parity is not None]  # fmt: skip
    return make_table(
        "Against PyTorch where an engine sums attention in FP16, which no CPU shows: emulated",
        ("Artifact", "Worst case", "Images", "Pixels equal", "mIoU, PyTorch", "mIoU",
         "Score error, RMS"),
        [
            (subject.name, case.name, figure(case.images, "d"),
             figure(case.pixel_agreement, ".5f"), figure(case.miou_reference, ".4f"),
             figure(case.miou, ".4f"), figure(case.score_rms, ".1e"))
            for subject, case in cases if case is not None
        ],
    )  # fmt: skip


def _table_ranges(subject: Subject) -> Table | None:
    return make_table(
        f"Headroom of 16-bit values, the nearest layer of each kind: {subject.name}; bits are "
        "doublings up to the datatype's largest value",
        ("Kind", "Layer", "Largest magnitude", "Datatype", "Bits"),
        [
            (found.kind, code(found.layer), figure(found.largest, ".3g"), found.datatype,
             figure(found.headroom_bits, ".1f"))
            for found in subject.manifest.ranges
        ],
    )  # fmt: skip


def _table_classes(subject: Subject) -> Table | None:
    """Return what became of the classes, those that kept least of their pixels first."""
    parity = subject.manifest.parity
    classes = parity.classes if parity else ()
    shown = sorted(classes, key=lambda entry: 1.0 if entry.recall is None else entry.recall)
    rest = len(classes) - len(shown[:_CLASSES_SHOWN])
    return make_table(
        f"Classes at build time: {subject.name}"
        + (f"; {rest} that kept more are left out" if rest else ""),
        ("Class", "Independent pixels", "Images", "Kept", "IoU with PyTorch's labels",
         "IoU, PyTorch", "IoU", "Gated"),
        [
            (entry.name, figure(entry.pixels, ",d"), figure(entry.images, "d"),
             figure(entry.recall, ".4f", entry.recall_interval),
             figure(entry.iou, ".4f", entry.iou_interval), figure(entry.iou_reference, ".4f"),
             figure(entry.iou_exported, ".4f"), "yes" if entry.is_gated else "too few pixels")
            for entry in shown[:_CLASSES_SHOWN]
        ],
    )  # fmt: skip


def _list_notes(subject: Subject) -> Iterator[str]:
    parity = subject.manifest.parity
    if parity and parity.foreign_images:
        yield f"{subject.name} was verified on images that its classes were not made for."
    if parity and parity.unexercised_classes:
        yield f"Of {subject.name} no image holds: {', '.join(parity.unexercised_classes)}."


def _find_drop(parity: Parity) -> float | None:
    if parity.miou is None or parity.miou_reference is None:
        return None
    return parity.miou_reference - parity.miou


def _find_rms(parity: Parity) -> float | None:
    rms = parity.details.get("score_rms")
    return rms if isinstance(rms, float) else None
