"""What an evaluation says: a dictionary, a table, CSV files, pictures of the worst images.

Shapes: `H, W` pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from segvit.atomic import write_bytes
from segvit.classes import Rgb
from segvit.evaluation import Labelled
from segvit.images import Image, draw_overlay, write_png
from segvit.metrics import ConfusionMatrix

_GAP = 8  # white pixels between the pictures of an image


def describe_metrics(matrix: ConfusionMatrix, names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics by name; None for a class that is in no mask and no prediction."""
    found = matrix.compute()
    iou = [None if isnan(value) else value for value in found.iou.tolist()]
    return {
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "iou": dict(zip(names, iou, strict=True)),
        "pixels": int(matrix.counts.sum()),
    }


def format_table(report: Mapping[str, Any]) -> str:
    """Return the report as text, a line a class."""
    rows = [*report["iou"].items(), ("mIoU", report["miou"]), ("aAcc", report["pixel_accuracy"])]
    floors = {
        **report.get("colour_floor_iou", {}),
        "mIoU": report.get("colour_floor_miou"),
        "aAcc": report.get("colour_floor_pixel_accuracy"),
    }
    width = max(20, *(len(name) + 1 for name in report["iou"]))
    with_floor = "above_floor" in report
    lines = [f"{'':{width}}{'model':>8}" + (f"{'colour':>8}" if with_floor else "")]
    for name, value in (*rows, ("mAcc", report["mean_accuracy"])):
        shown = f"{name:{width}}{'absent' if value is None else format(value, '.4f'):>8}"
        floor = floors.get(name)
        lines.append(shown if floor is None else f"{shown}{floor:8.4f}")
    parts = [f"{report['pixels']} pixels of {report['images']} images", _describe_protocol(report)]
    if with_floor:
        parts.append(f"{report['above_floor']:+.4f} mIoU against the colour look-up")
    if report["unreadable"]:
        parts.append(f"{len(report['unreadable'])} unreadable images SKIPPED")
    where = " ".join(filter(None, (report["dataset"], report.get("split"))))
    seconds = f"{report['seconds']} s"
    return "\n".join([*lines, f"{report['model']} on {where}: {', '.join([*parts, seconds])}"])


def _describe_protocol(report: Mapping[str, Any]) -> str:
    if report["mode"] == "tiles":
        return "overlapping tiles"
    views = len(report["scales"]) * (1 + report["flip"])
    return f"{report['mode']}, {views} view{'s' if views > 1 else ''} an image"


def write_class_csv(path: Path, matrix: ConfusionMatrix, names: Sequence[str]) -> None:
    """Write a row a class: IoU and accuracy (empty where absent), true and predicted pixels."""
    found = matrix.compute()
    true, predicted = matrix.counts[:-1].sum(axis=1), matrix.counts.sum(axis=0)
    rows = zip(names, found.iou, found.accuracy, true, predicted, strict=True)
    header = ("class", "iou", "accuracy", "true_pixels", "predicted_pixels")
    _write_csv(path, header, ([n, _show(i), _show(a), int(t), int(p)] for n, i, a, t, p in rows))


def write_image_csv(path: Path, names: Sequence[str], miou: Mapping[int, float]) -> None:
    """Write a row an image, in order: name and own mIoU, empty where nothing is labelled."""
    _write_csv(path, ("image", "miou"), ([names[i], _show(miou[i])] for i in sorted(miou)))


def draw_comparison(labelled: Labelled, names: Sequence[str], palette: Sequence[Rgb]) -> Image:
    """Return image, found and true labels side by side; ignored pixels keep their colour."""
    pictures = [labelled.image]
    for labels in (labelled.found, labelled.truth):
        pictures.append(draw_overlay(labelled.image, labels, names, palette, opacity=0.6))
    height = max(len(picture) for picture in pictures)
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    padded = [
        np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures
    ]
    return np.concatenate([padded[0], gap, padded[1], gap, padded[2]], axis=1)


def write_picture(path: Path, picture: Image) -> None:
    """Write a picture, in folders that are made where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, picture)


def _show(value: float) -> str:
    return "" if isnan(value) else f"{value:.6f}"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
