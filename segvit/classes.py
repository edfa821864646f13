"""Names and colours of classes: lists in files, those of published data sets, or chosen colours."""

from __future__ import annotations

import colorsys
from pathlib import Path

Rgb = tuple[int, int, int]
MOST_CLASSES = 255  # of a mask in uint8, where 255 is ignored


def distinct_palette(num_classes: int) -> tuple[Rgb, ...]:
    """Return `num_classes` RGB colours, neighbours far apart in hue (golden-angle steps)."""
    colours = []
    for index in range(num_classes):
        hue = index * 0.618033988749895 % 1.0
        saturation, value = 0.55 + 0.15 * (index % 4), 0.95 - 0.15 * (index // 4 % 3)
        red, green, blue = colorsys.hsv_to_rgb(hue, min(saturation, 1.0), value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)


def published_classes(dataset: str) -> tuple[tuple[str, ...], tuple[Rgb, ...]]:
    """Return names and colours of `ade20k`, `coco_stuff10k` or `pascal_context` (60 classes)."""
    return read_classes(Path(__file__).parent / "datasets" / f"{dataset}.csv")


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Rgb, ...]]:
    """Return names and colours of a list of classes; colours are chosen where it has none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, or a line is neither `name` nor `name,red,green,blue`.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such list of classes", str(path))
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not 1 <= len(lines) <= MOST_CLASSES:
        raise ValueError(f"'{path}': expected 1 to {MOST_CLASSES} classes, got {len(lines)}")
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    if all(len(row) == 1 for row in rows):
        return tuple(lines), distinct_palette(len(lines))
    for number, row in enumerate(rows, 1):
        channels = row[1:]
        if len(row) != 4 or not all(c.isdecimal() and int(c) <= 255 for c in channels):
            raise ValueError(
                f"'{path}', line {number}: expected name,red,green,blue with 0 to 255 in every "
                f"line, got '{lines[number - 1]}'"
            )
    colours = tuple((int(red), int(green), int(blue)) for _, red, green, blue in rows)
    return tuple(row[0] for row in rows), colours
