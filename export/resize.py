"""Images of another size than the model's: pixels resized in the graph, labels back to pixels.

Shapes: `B` batch, `H, W` pixels of the image, `h, w` pixels that the model works on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segvit.model import Size


class PixelResize(nn.Module):
    """uint8 pixels at another size, interpolated linearly, rounded where OpenCV rounds.

    Rows and columns are gathered by constant indices and blended: no kernel more than without, all
    of it is read by the patch embedding's first (37.0 MB and 127 kernels for a ViT-T at 256 px from
    1080 x 1920, where Resize between two transpositions takes 63.5 MB and 130).

    OpenCV's `INTER_LINEAR` on 8 bits has weights of 11 bits and cuts off what lies below 1/128 of a
    grey level behind its first pass and below 1/4 behind its second. Rounded once, one pixel in
    eight is a level brighter, and 0.3 % of a land-cover model's labels are others.
    """

    rows: Tensor
    row_weights: Tensor
    columns: Tensor
    column_weights: Tensor

    def __init__(self, source: Size, size: Size) -> None:
        super().__init__()
        for name, old, new in (("row", source[0], size[0]), ("column", source[1], size[1])):
            # Half-pixel centres, clamped at the edges; no smoothing where it shrinks.
            place = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0)
            first = place.long().clamp(max=old - 1)
            pairs = torch.stack([first, (first + 1).clamp(max=old - 1)])  # (2, h) or (2, w)
            weights = ((place - first) * 2048).round() / 2048
            self.register_buffer(f"{name}s", pairs)
            self.register_buffer(f"{name}_weights", weights.float())

    def forward(self, image: Tensor) -> Tensor:
        """Return whole numbers, as floats `(B, h, w, 3)`, of uint8 `(B, H, W, 3)`."""
        pixels = image.float()  # compilers gather no uint8
        left, right = (pixels.index_select(2, index) for index in self.columns)
        blended = left + (right - left) * self.column_weights[:, None]  # (B, H, w, 3)
        blended = (blended * 128).floor()
        upper, lower = (blended.index_select(1, index) for index in self.rows)
        weights = self.row_weights[:, None, None] / 32  # of 1/128 to 1/4 of a grey level
        quarters = (upper * (1 / 32 - weights)).floor() + (lower * weights).floor()
        return ((quarters + 2) / 4).floor()


class LabelResize(nn.Module):
    """Labels at another size, each that of the nearest pixel, as `images.resize_labels` does."""

    rows: Tensor
    columns: Tensor

    def __init__(self, source: Size, size: Size, dtype: torch.dtype) -> None:
        super().__init__()
        for name, old, new in (("rows", source[0], size[0]), ("columns", source[1], size[1])):
            self.register_buffer(name, (torch.arange(new) * 2 + 1) * old // (2 * new))
        self.dtype = dtype

    def forward(self, labels: Tensor) -> Tensor:
        """Return `(B, H, W)` of the label type for int64 `(B, h, w)`."""
        return labels.index_select(1, self.rows).index_select(2, self.columns).to(self.dtype)
