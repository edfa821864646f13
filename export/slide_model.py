"""A whole image in, windows and stitching in the graph: `--mode slide`.

Shapes: `n` windows, `H, W` pixels of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.deploy import DeployModel
from export.stitch import Stitch
from segvit.inference import list_windows
from segvit.model import SegViT, Size


class SlideModel(DeployModel):
    """A SegViT that slides over one image; its labels are those of `inference.score_slide`.

    Args:
        model: the reference, in evaluation mode; windows and stride are its own.
        size: (height, width) of the image.
        window_batch: windows that run at once, None for all; fewer take less memory.
        resize_from: (height, width) of images that are resized to `size`, their labels back.

    Raises:
        ValueError: if the image is smaller than a window.
    """

    def __init__(
        self,
        model: SegViT,
        size: Size,
        window_batch: int | None = None,
        resize_from: Size | None = None,
    ) -> None:
        config = model.config
        side, stride = config.image_size, config.stride or config.image_size
        if min(size) < side:
            raise ValueError(
                f"image size {size[0]}x{size[1]}: expected at least one window, {side}x{side}; "
                "leave out --mode slide for smaller images"
            )
        super().__init__(model, (side, side))
        self.windows = list_windows(size, (side, side), (stride, stride))
        self.window_batch = window_batch or len(self.windows)
        self.crop = (side, side)
        self.tail = Stitch(config.num_classes, self.mask_grid, size, self.crop, (stride, stride))
        self._resize_from(resize_from, size)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return labels `(1, H, W)` of uint8 `(1, H, W, 3)`."""
        image = self.resize(
            image
        ).float()  # compilers cut no uint8; as this is the first thing done, it is free
        crops = [
            image[:, top : top + self.crop[0], left : left + self.crop[1]]
            for top, left in self.windows
        ]
        found = [
            self.find_masks(torch.cat(crops[start : start + self.window_batch]))
            for start in range(0, len(crops), self.window_batch)
        ]
        classes, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
        labels: Tensor = self.restore(self.tail(classes, masks))
        return labels
