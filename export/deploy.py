"""The graph contract: uint8 images in, labels or scores out, everything between inside.

Input `image`: uint8 `(B, H, W, 3)`, RGB as decoded. Output `labels`: uint8 `(B, H, W)` (int32 above
256 classes), or `scores`: float `(B, K, H, W)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.folded_encoder import FoldedBlock, FoldedPatchEmbed
from export.folded_head import fold_head
from export.resize import LabelResize, PixelResize
from export.stitch import Stitch
from export.tail import Tail
from segvit.model import SegViT, Size
from segvit.typed_list import TypedList
from segvit.vit import Rotary


class DeployModel(nn.Module):
    """A SegViT rewritten, exactly, into the form a compiler turns into the fewest kernels.

    Args:
        model: the reference, in evaluation mode.
        size: (height, width) of the input; the position embedding is fixed to it.
        output: `labels` or `scores`.
        tail_strips: horizontal strips the last stage is computed in, one after another.
        resize_from: (height, width) of images that are resized to `size`, their labels back.

    Raises:
        ValueError: if the size is no multiple of the patch, or the model cannot work at it.
    """

    cos: Tensor  # (P + N, D), one table for all blocks, with rotary positions only
    sin: Tensor

    def __init__(
        self,
        model: SegViT,
        size: Size,
        output: str = "labels",
        tail_strips: int = 1,
        resize_from: Size | None = None,
    ) -> None:
        super().__init__()
        config, patch = model.config, model.config.patch_size
        if size[0] % patch or size[1] % patch:
            nearest = tuple(max(patch, round(side / patch) * patch) for side in size)
            raise ValueError(
                f"size {size[0]}x{size[1]} is no multiple of the patch size {patch}; "
                f"try --size {nearest[0]}x{nearest[1]}"
            )
        model.check_size(size)
        self.output = output
        self.tap_blocks, self.num_prefix = config.tap_blocks, config.num_prefix
        grid = (size[0] // patch, size[1] // patch)
        self.patch_embed = FoldedPatchEmbed(model.backbone, config, grid)
        rotary = model.backbone.make_rotary(grid)
        self.is_rotary = rotary is not None
        if rotary is not None:
            self.register_buffer("cos", rotary.cos.float())
            self.register_buffer("sin", rotary.sin.float())
        self.encoder: TypedList[FoldedBlock] = TypedList()
        for block in model.backbone.blocks:
            self.encoder.append(FoldedBlock(block, grid, self.is_rotary))
            if block.shrinks:
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        self.head = fold_head(model.decode_head)
        if self.num_prefix:
            # Dropped from the projected taps, half as wide: dropped from the taps themselves, each
            # is a copy and a kernel more (9.5 MB in ViT-B).
            for projection in self.head.projections:
                projection.linear.register_forward_hook(self._drop_prefix)
        self.mask_grid: Size = model.decode_head.mask_grid(config, grid)
        crop = (config.image_size, config.image_size)
        self.tail: Tail | Stitch = Tail(
            config.num_classes, self.mask_grid, crop, size, output, tail_strips
        )
        self._resize_from(resize_from, size)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return labels `(B, H, W)` or scores `(B, K, H, W)` of uint8 `(B, H, W, 3)`."""
        classes, masks = self.find_masks(self.resize(image))
        output: Tensor = self.restore(self.tail(classes, masks))
        return output

    def find_masks(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities `(B, Q, K+)` and mask logits `(B, Q, h w)` of uint8 images."""
        tokens = self.patch_embed(image)
        rotary = Rotary(self.cos, self.sin) if self.is_rotary else None
        taps = []
        for index, block in enumerate(self.encoder):
            tokens = block(tokens, rotary)
            if index in self.tap_blocks:
                taps.append(tokens)
        classes, masks = self.head(taps)
        return classes, masks

    def _resize_from(self, source: Size | None, size: Size) -> None:
        self.resize: nn.Module = PixelResize(source, size) if source else nn.Identity()
        self.restore: nn.Module = nn.Identity()
        if source:
            self.restore = LabelResize(size, source, self.tail.dtype)
            self.tail.dtype = torch.int64  # compilers gather no uint8

    def _drop_prefix(self, _module: nn.Module, _inputs: object, projected: Tensor) -> Tensor:
        return projected[:, self.num_prefix :]
