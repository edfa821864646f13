"""The end of the graph: upsample, sigmoid, class mix, labels.

Shapes: `B` batch, `Q` queries, `K+` padded classes, `h, w` mask grid, `H, W` pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segvit.model import Size


class Tail(nn.Module):
    """Mask logits and class probabilities to labels or scores.

    1. Resize and Sigmoid fuse into one kernel; the mix is one MatMul, ArgMax follows. Sigmoid and
       scores are each written and read once (4 x 79 MB for ViT-B at 512 px), at any batch.
    2. Images are never mixed as a batch: that inserts a transpose of all scores before the ArgMax
       (1,918 MB for four images instead of 1,295). They are chained one after another.
    3. With `strips`, so are horizontal strips of an image, and both large tensors shrink with them
       (158 MiB of activations to 48 with four).

    A chain multiplies the next strip's small masks by a factor of one made from the labels before,
    which no compiler can know is one; otherwise the strips are merged again.
    """

    def __init__(
        self, num_classes: int, grid: Size, crop: Size, size: Size, output: str, strips: int
    ) -> None:
        super().__init__()
        if output not in ("labels", "scores"):
            raise ValueError(f"output must be labels or scores, got '{output}'")
        if strips < 1 or crop[0] % strips or (crop[0] // strips) % 2:
            raise ValueError(
                f"tail strips must cut {crop[0]} rows into even numbers of rows, got {strips}"
            )
        if strips > 1 and (size != crop or output == "scores"):
            raise ValueError(
                f"tail strips need labels at the training crop {crop[0]}x{crop[1]}, got {output} "
                f"at {size[0]}x{size[1]}; leave --tail-strips out"
            )
        self.num_classes, self.grid, self.crop, self.size = num_classes, grid, crop, size
        self.output, self.strips = output, strips
        self.dtype = torch.uint8 if num_classes <= 256 else torch.int32

    def forward(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Return labels `(B, H, W)` or scores `(B, K, H, W)`.

        Args:
            classes: class probabilities `(B, Q, K+)`, zero in the padding.
            masks: mask logits `(B, Q, h w)`.
        """
        mixing = classes.transpose(1, 2)  # (B, K+, Q)
        masks = masks.unflatten(2, self.grid)
        batch = masks.shape[0]
        if not isinstance(batch, int) or self.output == "scores" or self.size != self.crop:
            # A batch of unknown size cannot be cut into images.
            return self._mix_batch(mixing, masks)
        factor: Tensor | None = None
        labels = []
        for image, mix in zip(_split(masks), _split(mixing), strict=True):
            for strip in range(self.strips):
                part = self._take_rows(image, strip)
                part = part if factor is None else part * factor
                found = self._label_strip(mix, part, strip)
                labels.append(found)
                if len(labels) < batch * self.strips:
                    factor = unknown_one(found, masks.dtype)
        flat = labels[0] if len(labels) == 1 else torch.cat(labels, dim=1)
        return flat.reshape(batch, *self.crop).to(self.dtype)

    def _mix_batch(self, mixing: Tensor, masks: Tensor) -> Tensor:
        upsampled = F.interpolate(masks, size=self.crop, mode="bilinear").sigmoid()
        scores = (mixing @ upsampled.flatten(2)).unflatten(2, self.crop)
        if self.size != self.crop:
            scores = F.interpolate(scores, size=self.size, mode="bilinear")
        output: Tensor = scores[:, : self.num_classes]
        if self.output == "labels":
            output = scores.argmax(dim=1).to(self.dtype)
        return output

    def _take_rows(self, masks: Tensor, strip: int) -> Tensor:
        """Return the mask rows a strip needs, one more on either side where there is one."""
        if self.strips == 1:
            return masks
        first, last = self._mask_rows(strip)
        return masks[:, :, first:last]

    def _mask_rows(self, strip: int) -> Size:
        rows = self.crop[0] // self.strips
        scale = self.grid[0] / self.crop[0]
        first = int(strip * rows * scale + scale / 2 - 0.5) if strip else 0
        last = int(((strip + 1) * rows - 1) * scale + scale / 2 - 0.5) + 2
        return max(first, 0), min(last, self.grid[0])

    def _label_strip(self, mixing: Tensor, masks: Tensor, strip: int) -> Tensor:
        """Return the labels of one strip, int64 `(1, rows W)`."""
        rows = self.crop[0] // self.strips
        first, last = self._mask_rows(strip) if self.strips > 1 else (0, self.grid[0])
        scale = self.crop[0] // self.grid[0]
        upsampled = F.interpolate(
            masks, size=((last - first) * scale, self.crop[1]), mode="bilinear"
        )
        if self.strips > 1:
            offset = strip * rows - first * scale
            upsampled = upsampled[:, :, offset : offset + rows]
        scores = mixing @ upsampled.sigmoid().flatten(2)  # (1, K+, rows W)
        return scores.argmax(dim=1)


def _split(batch: Tensor) -> list[Tensor]:
    """Return the images of a batch, each a batch of one."""
    if len(batch) == 1:
        return [batch]  # a slice of everything would stay in the graph
    return [batch[index : index + 1] for index in range(len(batch))]


def unknown_one(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `(1,)`, a 1 that depends on the labels."""
    return (labels[:, :8].to(dtype).amin(dim=1) + 1).clamp(max=1)
