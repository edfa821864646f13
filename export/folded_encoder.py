"""The encoder as the compiler likes it: seven kernels a block, nothing shuffled.

Shapes: `B` batch, `N` tokens (= `h * w`, after `P` prefix tokens where the model keeps them), `C`
width, `h, w` patch grid, `H, W` pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.folds import (
    SHIFT,
    Affine,
    Projection,
    fold_affine,
    fold_into_weight,
    value_bias,
)
from segvit.config import SegViTConfig
from segvit.vit import Block, Grid, Rotary, VisionTransformer, resize_pos_embed, take_even

# Pixels enter as differences from 128: exact in FP16, and small enough that the patch embedding
# loses less to rounding (relative error 3.4e-4 against 5.0e-4).
PIXEL_OFFSET = 128.0


class FoldedLinear(nn.Module):
    """`x W + b` as MatMul and Add, from float64 weights; without a bias, one MatMul."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        """Return `(..., D)` for `(..., C)`."""
        product = value @ self.weight
        return product if self.bias is None else product + self.bias


class PlainNorm(nn.Module):
    """LayerNorm without learned affine: its outputs sum to `C * shift`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.LayerNorm, shift: float) -> None:
        super().__init__()
        dim = norm.normalized_shape[0]
        self.eps = norm.eps
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("shift", torch.full((dim,), shift))

    def forward(self, value: Tensor) -> Tensor:
        """Return the normalised `(B, N, C)`, shifted."""
        return F.layer_norm(value, self.scale.shape, self.scale, self.shift, self.eps)


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, rotary: Rotary | None = None
) -> Tensor:
    """Return the attention context `(B, M, C)`; the scale is already in the query.

    Written as two products and a softmax because that is the pattern every compiler fuses. Rotating
    behind the transposition costs two kernels and 6.8 MB a ViT-B block, which read the projection
    in place; before it, three and 10.0 MB; by further columns of the projection, three and 24.5 MB;
    query, key and an unturned value together, one and 9.7 MB.

    Args:
        query: `(B, M, C)`.
        key: `(B, N, C)`.
        value: `(B, N, C)`.
        rotary: what turns queries and keys, or None.
    """
    heads = [part.unflatten(2, (num_heads, -1)) for part in (query, key, value)]
    queries, values = heads[0].transpose(1, 2), heads[2].transpose(1, 2)
    if rotary is None:
        keys = heads[1].permute(0, 2, 3, 1)
    else:
        queries = rotary.rotate(queries)
        keys = rotary.rotate(heads[1].transpose(1, 2)).transpose(2, 3)
    context: Tensor = (queries @ keys).softmax(dim=-1) @ values
    return context.transpose(1, 2).flatten(2)


class FoldedPatchEmbed(nn.Module):
    """uint8 pixels to tokens: normalisation, patch embedding and position embedding in one.

    The convolution is a MatMul over flattened patches: two kernels and 8.3 MB at 512 px, where the
    convolution takes three and 13.4 MB. Prefix tokens are constants: rows of the added table whose
    patches are zero, which takes no kernel more.
    """

    position: Tensor

    def __init__(self, backbone: VisionTransformer, config: SegViTConfig, grid: Grid) -> None:
        super().__init__()
        self.patch_size, self.grid, self.num_prefix = config.patch_size, grid, config.num_prefix
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.mean, config.std))
        kernel = backbone.patch_embed.weight.detach().double()  # (C, 3, p, p)
        kernel = (kernel / std[:, None, None]).permute(2, 3, 1, 0)  # (p, p, 3, C)
        assert backbone.patch_embed.bias is not None
        bias = backbone.patch_embed.bias.detach().double()
        bias = bias + ((PIXEL_OFFSET - mean)[:, None] * kernel).sum(dim=(0, 1, 2))
        position = _added_rows(backbone, config, grid, bias)
        self.linear = FoldedLinear(kernel.flatten(0, 2))
        self.register_buffer("position", position.float())

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens `(B, P + N, C)` of uint8 images `(B, H, W, 3)`."""
        (height, width), patch = self.grid, self.patch_size
        pixels = image.float() - PIXEL_OFFSET
        patches = pixels.reshape(-1, height, patch, width, patch * 3).transpose(2, 3)
        patches = patches.reshape(-1, height * width, patch * patch * 3)
        if self.num_prefix:
            patches = F.pad(patches, (0, 0, self.num_prefix, 0))
        tokens: Tensor = self.linear(patches) + self.position
        return tokens


def _added_rows(
    backbone: VisionTransformer, config: SegViTConfig, grid: Grid, bias: Tensor
) -> Tensor:
    """Return what is added to the embedded patches, prefix tokens first, `(1, P + N, C)`."""
    cls = backbone.cls_token.detach().double()
    patches = bias.expand(1, grid[0] * grid[1], -1)
    if config.position == "learned":
        learned = backbone.pos_embed.detach().double()
        learned = resize_pos_embed(learned, backbone.trained_grid, grid, backbone.antialias)
        cls, patches = cls + learned[:, :1], learned[:, 1:] + bias
    if not config.keeps_prefix:
        return patches
    rows = [cls, patches]
    if config.num_registers:
        rows.insert(1, backbone.registers.detach().double())
    return torch.cat(rows, dim=1)


class FoldedBlock(nn.Module):
    """A transformer block whose projections to attention have no bias and no scale.

    1. LayerNorm's affine folds into the linears behind it.
    2. The query's bias and 1/sqrt(head dim) fold into its weight (see `export.folds`).
    3. The key's constant is the same in every softmax row: dropped. With rotary positions it turns
       with its token and is not: folded as the query's. Rotation and scale commute.
    4. The value's constant passes the softmax unchanged: added to the output projection's bias.
    5. LayerScale multiplies the columns of the output projection and of the MLP's second linear.
    6. A shrinking block subsamples before the norm and normalises twice, which fuses better than
       gathering normalised tokens.
    """

    def __init__(self, block: Block, grid: Grid, is_rotary: bool = False) -> None:
        super().__init__()
        self.num_heads = block.attn.num_heads
        self.shrinks, self.grid = block.shrinks, grid
        stream = Affine.of(block.norm1)
        query, key, value = Projection.of(block.attn.qkv).split(3)
        query = query.scaled((query.weight.shape[1] // self.num_heads) ** -0.5)
        output = _scaled(Projection.of(block.attn.proj), block.layer_scale1)
        weights = [
            fold_into_weight(query, stream),
            fold_into_weight(key, stream, with_bias=is_rotary),
            fold_into_weight(value, stream, with_bias=False),
        ]
        self.norm1 = PlainNorm(block.norm1, SHIFT)
        if self.shrinks:
            self.query = FoldedLinear(weights[0])
            self.key_value = FoldedLinear(torch.cat(weights[1:], dim=1))
        else:
            self.qkv = FoldedLinear(torch.cat(weights, dim=1))
        self.proj = FoldedLinear(output.weight, output.bias + value_bias(value, output, stream))
        self.norm2 = PlainNorm(block.norm2, 0.0)
        self.fc1 = FoldedLinear(*fold_affine(Projection.of(block.mlp.fc1), Affine.of(block.norm2)))
        self.fc2 = FoldedLinear(*_scaled(Projection.of(block.mlp.fc2), block.layer_scale2))

    def forward(self, tokens: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Return the tokens `(B, P + N, C)`, a quarter of them where the block shrinks."""
        if self.shrinks:
            key, value = self.key_value(self.norm1(tokens)).chunk(2, dim=-1)
            tokens = take_even(tokens, self.grid)
            query = self.query(self.norm1(tokens))
        else:
            query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.proj(attend(query, key, value, self.num_heads, rotary))
        output: Tensor = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return output


def _scaled(projection: Projection, scale: Tensor | None) -> Projection:
    return projection if scale is None else projection.scaled(scale.detach().double())
