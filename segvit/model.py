"""SegViT = plain-ViT backbone + attention-to-mask decode head.

Shapes: `B` batch, `Q` queries (one a class), `K` classes, `h, w` patch grid, `H, W` pixels.
Source: SegViT (arXiv 2210.05844).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segvit.atm import CascadeHead, DecodeHead, Prediction, SingleHead
from segvit.config import SegViTConfig
from segvit.shrunk import ShrunkHead
from segvit.vit import VisionTransformer

Size = tuple[int, int]
# By the name in a config; a new one also needs `segvit.config.HEAD_RULES` and its inference form in
# `export.folded_head`.
HEADS: dict[str, type[DecodeHead]] = {
    "cascade": CascadeHead,
    "single": SingleHead,
    "shrunk": ShrunkHead,
}


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights came from: file name, its sha256 and the licence it states."""

    source: str
    sha256: str
    licence: str
    random_parts: tuple[str, ...] = ()
    unused_keys: tuple[str, ...] = ()


class SegViTOutput(NamedTuple):
    """What the loss needs: the final prediction and the earlier ones, at patch resolution."""

    class_logits: Tensor  # (B, Q, K + 1)
    mask_logits: Tensor  # (B, Q, h, w)
    aux: tuple[Prediction, ...]


class SegViT(nn.Module):
    """Semantic segmentation with a plain ViT.

    In evaluation mode `model(image)` is the class scores; in training mode, a `SegViTOutput`.
    """

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config)
        self.decode_head: DecodeHead = HEADS[config.head](config)
        _init_weights(self)
        self.provenance: Provenance | None = None  # None: random weights

    def forward(self, image: Tensor) -> Tensor | SegViTOutput:
        """Return scores `(B, K, H, W)`, or in training mode the predictions before upsampling.

        Args:
            image: normalised float `(B, 3, H, W)`.

        Raises:
            ValueError: if the image is not that, or too small for the Shrunk variant.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be (B, 3, H, W), got {tuple(image.shape)}")
        self.check_size((image.shape[2], image.shape[3]))
        *aux, last = self.decode_head(self.backbone(image))
        if self.training:
            return SegViTOutput(last.class_logits, last.mask_logits, tuple(aux))
        crop = (self.config.image_size, self.config.image_size)
        return mix_classes(last, (image.shape[2], image.shape[3]), crop)

    def check_size(self, size: Size) -> None:
        """Raise `ValueError` where the model cannot work at `size` = (height, width)."""
        config = self.config
        if min(size) <= 0:
            raise ValueError(f"image size must be positive, got {size[0]}x{size[1]}")
        grid = (-(-size[0] // config.patch_size), -(-size[1] // config.patch_size))
        if not self.decode_head.fits_grid(config, grid):
            raise ValueError(
                f"model '{config.name}' cannot take {size[0]}x{size[1]}: the Shrunk head restores "
                f"the square {config.image_size}-px training crop; give square crops (slide mode "
                "cuts them) or use the full model"
            )


def mix_classes(prediction: Prediction, size: Size, crop: Size) -> Tensor:
    """Return the class-mixed mask scores `(B, K, H, W)` at `size`.

    Scores are `sum_q softmax(class)[q, :K] * sigmoid(upsample(masks))[q]`, upsampled bilinearly
    before the sigmoid; they may exceed 1. As in the published models they are computed at the
    training crop's resolution, and resized where the image has another.
    Source: SegViT equation 5 (arXiv 2210.05844).
    """
    masks = F.interpolate(prediction.mask_logits, size=crop, mode="bilinear", align_corners=False)
    classes = prediction.class_logits.softmax(dim=-1)[..., :-1]
    # In place: with 150 classes at 512 px, either side of the sigmoid is 157 MB an image.
    scores = torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid_())
    if size == crop:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def build_model(config: SegViTConfig) -> SegViT:
    """Return a SegViT with random weights, in evaluation mode."""
    return SegViT(config).eval()


def _init_weights(model: SegViT) -> None:
    """Fill the weights for training from nothing."""
    for module in model.backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for module in model.decode_head.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        code = _position_code(model.config.grid_size, model.config.embed_dim)
        if model.config.position == "learned":
            model.backbone.pos_embed[:, 1:] = code
        if model.config.num_registers:  # alike, they would stay alike
            nn.init.trunc_normal_(model.backbone.registers, std=0.02)
        if isinstance(model.decode_head, ShrunkHead):
            model.decode_head.look_at_own_place(code)


def _position_code(size: int, dim: int) -> Tensor:
    """Return a sine-cosine code of the positions of a square grid, `(size^2, dim)`.

    The waves are 4 to 2 `size` patches long: with the usual ones of up to 10,000, most channels
    would hardly vary over a grid of 16.
    Source: Attention Is All You Need section 3.5 (arXiv 1706.03762), one half of the width an axis.
    """
    quarter = -(-dim // 4)
    longest = max(2.0 * size, 4.0)
    waves = 4.0 * (longest / 4.0) ** (torch.arange(quarter) / max(quarter - 1, 1))
    angles = torch.arange(size)[:, None] * (2 * torch.pi / waves)  # (size, dim / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (size, dim / 2)
    rows, columns = axis.repeat_interleave(size, dim=0), axis.repeat(size, 1)
    return torch.cat([rows, columns], dim=1)[:, :dim]
