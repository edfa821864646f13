"""A heat strip over the encoder's depth: what quantising each product costs, at one glance."""

from __future__ import annotations

import re
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.images import Image

Cells = Mapping[tuple[str, int], float]

_PRODUCT = re.compile(r"encoder/(\d+)(?:/(.+?))?(?:/MatMul)?")
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT, _TITLE = 0.42, 0.56  # font scales
_CELL_WIDTH, _CELL_HEIGHT, _GAP = 68, 40, 2  # pixels, as all below
_TOP, _BOTTOM, _MARGIN = 84, 62, 18
_SCALE_SPACE, _SCALE_WIDTH, _SCALE_HEIGHT = 190, 18, 160
_MIN_WIDTH = 760
_TICKS = 4
_SMALLEST = 1e-12  # an error of 0 has no logarithm
_INK, _PAPER, _EMPTY = (30, 30, 30), (255, 255, 255), (236, 236, 236)


def place_errors(errors: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """Return each error at its (kind of product, encoder block).

    `encoder/3/fc1/MatMul` is at ("fc1", 3), a whole block `encoder/3` at ("block", 3); what lies
    before the encoder is in column 0 of a row that has its first word.
    """
    cells = {}
    for name, error in errors.items():
        found = _PRODUCT.fullmatch(name)
        key = (found[2] or "block", int(found[1])) if found else (name.split("/", 1)[0], 0)
        cells[key] = error
    return cells


def draw_strip(cells: Cells, title: str, scale_title: str = "score error (log)") -> Image:
    """Return an RGB picture `(height, width, 3)`: rows of kinds, columns of blocks.

    Args:
        cells: errors of 0 or more by (kind, block); colours follow their logarithms.
        title: ASCII, as OpenCV's fonts are.
        scale_title: of the colour scale.

    Raises:
        ValueError: if there are no cells, or an error is negative or not finite.
    """
    values = np.array(list(cells.values()), np.float64)
    if not cells or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"heat strip: expected finite errors of 0 or more, got {values.tolist()}")
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    columns = max(block for _, block in cells) + 1
    left = 2 * _MARGIN + max(_measure(kind, _TEXT) for kind in (*kinds, "product"))
    right = left + columns * _CELL_WIDTH
    width = max(_MIN_WIDTH, right + _SCALE_SPACE, _measure(title, _TITLE) + 2 * _MARGIN)
    height = max(_TOP + len(kinds) * _CELL_HEIGHT, _TOP + _SCALE_HEIGHT) + _BOTTOM
    canvas = np.full((height, width, 3), _PAPER, np.uint8)
    _write(canvas, title, (_MARGIN, 32), _TITLE)
    _write(canvas, "product", (_MARGIN, _TOP - 10), _TEXT)
    bottom = _TOP + len(kinds) * _CELL_HEIGHT
    for block in range(columns):
        _write_centred(canvas, str(block), left + (block + 0.5) * _CELL_WIDTH, bottom + 20)
    _write_centred(canvas, "encoder block", (left + right) / 2, bottom + 42)
    limits = _find_limits(values)
    for row, kind in enumerate(kinds):
        y = _TOP + row * _CELL_HEIGHT
        _write(canvas, kind, (_MARGIN, y + _CELL_HEIGHT // 2 + 5), _TEXT)
        for block in range(columns):
            _draw_cell(canvas, cells.get((kind, block)), (left + block * _CELL_WIDTH, y), limits)
    _draw_scale(canvas, right + 36, limits, scale_title)
    return canvas


def _draw_cell(
    canvas: Image, value: float | None, corner: tuple[int, int], limits: tuple[float, float]
) -> None:
    x, y = corner
    colour = _EMPTY if value is None else _colour(value, limits)
    canvas[y : y + _CELL_HEIGHT - _GAP, x : x + _CELL_WIDTH - _GAP] = colour
    if value is not None:
        # Rec. 601 luma decides between dark and light figures.
        is_light = float(np.dot(colour, (0.299, 0.587, 0.114))) > 140
        centre = x + (_CELL_WIDTH - _GAP) / 2
        baseline = y + _CELL_HEIGHT // 2 + 4
        _write_centred(canvas, format_error(value), centre, baseline, _INK if is_light else _PAPER)


def _draw_scale(canvas: Image, x: int, limits: tuple[float, float], title: str) -> None:
    """Draw the colour scale, the largest error on top."""
    _write(canvas, title, (x, _TOP - 10), _TEXT)
    steps = np.linspace(limits[1], limits[0], _SCALE_HEIGHT)  # log10 of the error, downwards
    for row, step in enumerate(steps):
        canvas[_TOP + row, x : x + _SCALE_WIDTH] = _colour(10**step, limits)
    for tick in range(_TICKS + 1):
        row = tick * (_SCALE_HEIGHT - 1) // _TICKS
        y = _TOP + row
        canvas[y, x + _SCALE_WIDTH : x + _SCALE_WIDTH + 5] = _INK
        _write(canvas, format_error(10 ** steps[row]), (x + _SCALE_WIDTH + 10, y + 5), _TEXT)


def format_error(value: float) -> str:
    """Return two digits and a short exponent, such as `1.2e-3`."""
    digits, exponent = f"{value:.1e}".split("e")
    return "0" if value == 0 else f"{digits}e{int(exponent)}"


def _find_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return log10 of the smallest and largest error, apart even where all are equal."""
    positive = values[values > 0]
    logs = np.log10(np.maximum(positive, _SMALLEST)) if positive.size else np.zeros(1)
    low, high = float(logs.min()), float(logs.max())
    return (low, high) if high - low > 0.01 else (low - 0.5, high + 0.5)


def _colour(value: float, limits: tuple[float, float]) -> tuple[int, int, int]:
    log = np.log10(max(value, _SMALLEST))
    share = float(np.clip((log - limits[0]) / (limits[1] - limits[0]), 0, 1))
    level = np.array([[round(255 * share)]], np.uint8)
    blue, green, red = map(int, cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[0, 0])
    return red, green, blue


def _measure(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def _write(
    canvas: Image,
    text: str,
    position: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int] = _INK,
) -> None:
    cv2.putText(canvas, text, position, _FONT, scale, colour, 1, cv2.LINE_AA)


def _write_centred(
    canvas: Image, text: str, x: float, baseline: int, colour: tuple[int, int, int] = _INK
) -> None:
    _write(canvas, text, (round(x - _measure(text, _TEXT) / 2), baseline), _TEXT, colour)
