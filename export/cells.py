"""How the windows of a sliding window cut an image into cells.

Shapes: `K` classes, `K+` padded classes, `h, w` pixels of a cell, `H, W` of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segvit.images import Size
from segvit.inference import list_windows

# Columns a cell is filled up to, so that its pixels are whole vectors whatever its rows: odd widths
# cost two copies of every mask (8,103 MB instead of 6,032 for 18 windows of ViT-B).
_COLUMNS = 8


class Span(NamedTuple):
    """A stretch of one side of the image, and the starts of the windows that cover it."""

    first: int
    last: int
    starts: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Its length."""
        return self.last - self.first


class Cell(NamedTuple):
    """A rectangle of the image that the same windows cover throughout."""

    rows: Span
    columns: Span

    @property
    def windows(self) -> list[Size]:
        """(top, left) of the windows that cover it."""
        return [(top, left) for top in self.rows.starts for left in self.columns.starts]

    @property
    def padding(self) -> int:
        """Columns that are computed beside it, and dropped."""
        return -self.columns.pixels % _COLUMNS


def list_cells(size: Size, crop: Size, stride: Size) -> list[Cell]:
    """Return the cells of an image, row by row: they cut it at every edge of every window.

    Args:
        size: (height, width) of the image, at least the crop's.
        crop: of a window.
        stride: from one window to the next; the last clamp to the far edge.
    """
    windows = list_windows(size, crop, stride)
    rows, columns = (
        _list_spans(sorted({window[axis] for window in windows}), crop[axis]) for axis in (0, 1)
    )
    return [Cell(row, column) for row in rows for column in columns]


def join_cells(parts: Sequence[NDArray[np.floating]], cells: Sequence[Cell], num_classes: int
               ) -> NDArray[np.float32]:  # fmt: skip
    """Return an image's mean scores `(K, H, W)` of summed scores `(1, K+, h w padded)` by cell."""
    size = (cells[-1].rows.last, cells[-1].columns.last)
    scores = np.empty((num_classes, *size), np.float32)
    for part, (rows, columns), cell in zip(parts, cells, cells, strict=True):
        summed = part[0, :num_classes].reshape(num_classes, rows.pixels, -1)
        mean = summed[:, :, : columns.pixels] / np.float32(len(cell.windows))
        scores[:, rows.first : rows.last, columns.first : columns.last] = mean
    return scores


def _list_spans(starts: Sequence[int], crop: int) -> list[Span]:
    edges = sorted({edge for start in starts for edge in (start, start + crop)})
    return [
        Span(first, last, tuple(start for start in starts if start <= first < start + crop))
        for first, last in pairwise(edges)
    ]
