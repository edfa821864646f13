"""The end of a sliding graph: the masks of all windows to labels of the image.

Shapes: `n` windows, `Q` queries, `K+` padded classes, `g_h, g_w` mask grid of a window, `h, w`
pixels of a cell, `H, W` of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.cells import Cell, list_cells
from export.tail import unknown_one
from segvit.inference import list_windows
from segvit.model import Size


class Stitch(nn.Module):
    """Mask logits and class probabilities of all windows to labels of the image.

    1. Within a cell the scores of its windows are summed, not averaged: each pixel of it has as
       many, so the largest is the same.
    2. The sum is one product: the windows' masks and class probabilities stand side by side along
       the queries. Scores of a window are never written, and only those of one cell at a time.
    3. Cells are chained, as a tail's strips are (`export.tail`), or all their masks are held at
       once (1,498 MiB instead of 252 for 18 windows of ViT-B).

    Args:
        num_classes: of the model; the rest of `K+` is padding.
        grid: masks of a window, (height, width).
        size: (height, width) of the image.
        crop: of a window, a whole multiple of `grid`.
        stride: from one window to the next.
    """

    def __init__(self, num_classes: int, grid: Size, size: Size, crop: Size, stride: Size) -> None:
        super().__init__()
        self.grid, self.size, self.crop = grid, size, crop
        self.windows = list_windows(size, crop, stride)
        self.cells = list_cells(size, crop, stride)
        self.dtype = torch.uint8 if num_classes <= 256 else torch.int32

    def forward(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Return labels `(1, H, W)`.

        Args:
            classes: class probabilities `(n, Q, K+)`, zero in the padding.
            masks: mask logits `(n, Q, g_h g_w)`.
        """
        mixing = classes.transpose(1, 2)  # (n, K+, Q)
        masks = masks.unflatten(2, self.grid)
        factor: Tensor | None = None
        bands: list[Tensor] = []
        cells: list[Tensor] = []
        for cell in self.cells:
            found = self._label_cell(cell, mixing, masks, factor)
            factor = unknown_one(found.flatten(1), masks.dtype)
            cells.append(found)
            if cell.columns.last == self.size[1]:
                bands.append(torch.cat(cells, dim=2))
                cells = []
        return torch.cat(bands, dim=1).to(self.dtype)

    def _label_cell(
        self, cell: Cell, mixing: Tensor, masks: Tensor, factor: Tensor | None
    ) -> Tensor:
        """Return the labels of one cell, int64 `(1, h, w)`."""
        covering = [self.windows.index(window) for window in cell.windows]
        parts = []
        for index, (top, left) in zip(covering, cell.windows, strict=True):
            rows = (cell.rows.first - top, cell.rows.last - top)
            columns = (cell.columns.first - left, cell.columns.last - left)
            part = self._upsample(masks[index : index + 1], rows, columns, factor)
            parts.append(F.pad(part, (0, cell.padding)).sigmoid())  # (1, Q, h, w padded)
        probabilities = torch.cat(parts, dim=1)  # (1, all Q, h, w padded)
        weights = torch.cat([mixing[index : index + 1] for index in covering], dim=2)
        scores = weights @ probabilities.flatten(2)  # (1, K+, h w)
        labels: Tensor = scores.argmax(dim=1).unflatten(1, probabilities.shape[2:])
        return labels[:, :, : cell.columns.pixels]

    def _upsample(self, masks: Tensor, rows: Size, columns: Size, factor: Tensor | None) -> Tensor:
        """Return a window's mask logits at some of its pixels, `(1, Q, h, w)`.

        Only the masks that these pixels lie between are upsampled.
        """
        (top, bottom), (left, right) = (
            _find_masks(first, last, side, pixels)
            for (first, last), side, pixels in zip(
                (rows, columns), self.grid, self.crop, strict=True
            )
        )
        part = masks[:, :, top:bottom, left:right]
        if factor is not None:
            part = part * factor
        scale = (self.crop[0] // self.grid[0], self.crop[1] // self.grid[1])
        size = ((bottom - top) * scale[0], (right - left) * scale[1])
        upsampled = F.interpolate(part, size=size, mode="bilinear")
        rows_from, columns_from = rows[0] - top * scale[0], columns[0] - left * scale[1]
        return upsampled[
            :,
            :,
            rows_from : rows_from + rows[1] - rows[0],
            columns_from : columns_from + columns[1] - columns[0],
        ]


def _find_masks(first: int, last: int, side: int, pixels: int) -> Size:
    """Return the masks, first and one past the last, between which pixels `first` to `last` lie.

    A mask more than the interpolation reads at either end changes nothing, one less would.
    """
    scale = pixels // side
    return max((first - scale // 2) // scale, 0), min((last - 1 + scale // 2) // scale + 1, side)
