"""Plain vision transformer backbone with tapped blocks: ViT, DINOv2 and DINOv3.

Shapes: `B` batch, `N` tokens (= `h * w`, after `P` prefix tokens where the config keeps them), `C`
width, `D` width of a head, `h, w` patch grid, `H, W` pixels.
Sources: ViT (arXiv 2010.11929), SegViT section 3.1 (arXiv 2210.05844), DINOv2 (arXiv 2304.07193),
registers (arXiv 2309.16588), DINOv3 (arXiv 2508.10104).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segvit.config import SegViTConfig
from segvit.typed_list import TypedList

# LayerScale of a model trained from nothing: CaiT's for up to 18 blocks (arXiv 2103.17239).
LAYER_SCALE_INIT = 0.1

Grid = tuple[int, int]


class Rotary(NamedTuple):
    """What rotates queries and keys, `(P + N, D)` each; prefix tokens stay as they are."""

    cos: Tensor
    sin: Tensor

    def rotate(self, heads: Tensor) -> Tensor:
        """Return `(B, heads, P + N, D)` rotated; channel `i` turns with channel `i + D / 2`."""
        first, second = heads.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return (heads * self.cos + turned * self.sin).to(heads.dtype)


def make_rotary(grid: Grid, head_dim: int, theta: float, num_prefix: int) -> Rotary:
    """Return the rotations of a grid's patches, in float64.

    Patch centres lie in -1 to 1 whatever the grid, so no size needs an interpolation. Each of the
    `D / 4` waves turns with the row in one pair of channels and with the column in another.
    Source: DINOv3 section 3.2 (arXiv 2508.10104); RoFormer (arXiv 2104.09864).

    Args:
        theta: the longest wave over the shortest, nearly; the shortest turns twice over the grid.
        num_prefix: rows without rotation, first.
    """
    sides = [(torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1 for side in grid]
    centres = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)  # (N, 2)
    waves = theta ** (-4 * torch.arange(head_dim // 4, dtype=torch.float64) / head_dim)
    angles = (2 * math.pi * centres[:, :, None] * waves).flatten(1).tile(2)  # (N, D)
    angles = F.pad(angles, (0, 0, num_prefix, 0))
    return Rotary(angles.cos(), angles.sin())


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Return `(B, N, C)` as `(B, heads, N, C / heads)`."""
    batch, count, width = tokens.shape
    return tokens.view(batch, count, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """Return `(B, heads, N, C / heads)` as `(B, N, C)`."""
    return tokens.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention of queries to tokens, Q, K and V from one packed linear.

    The key always has a bias: without rotary positions it has no effect; with them (DINOv3, whose
    published models lack it) it starts at zero and trains like the query's.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, queries: Tensor, tokens: Tensor | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """Return `(B, M, C)` for `(B, M, C)` queries and `(B, N, C)` tokens (default: the same)."""
        if tokens is None:
            parts = self.qkv(queries).chunk(3, dim=-1)
        else:
            dim = self.proj.in_features
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(queries, weight[:dim], bias[:dim])
            parts = (query, *F.linear(tokens, weight[dim:], bias[dim:]).chunk(2, dim=-1))
        query, key, value = (split_heads(part, self.num_heads) for part in parts)
        if rotary is not None:
            query, key = rotary.rotate(query), rotary.rotate(key)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        output: Tensor = self.proj(merge_heads(context))
        return output


class Mlp(nn.Module):
    """Two linears with a GELU (erf form) between, hidden width 4 C."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(B, N, C)` for `(B, N, C)`."""
        output: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return output


class Block(nn.Module):
    """Pre-norm transformer block; stochastic depth on the MLP branch only.

    With `layer_scale`, each branch is multiplied by a learned vector before it is added or dropped.

    With `shrinks`, the queries and the residual are the tokens at even rows and columns, keys and
    values are all tokens, and the MLP runs on the small set: query-based downsampling.
    Source: SegViT section 3.3 (arXiv 2210.05844).
    """

    layer_scale1: nn.Parameter | None
    layer_scale2: nn.Parameter | None

    def __init__(self, config: SegViTConfig, drop_path: float, shrinks: bool) -> None:
        super().__init__()
        dim = config.embed_dim
        self.shrinks = shrinks
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim)
        for name in ("layer_scale1", "layer_scale2"):
            scale = nn.Parameter(torch.full((dim,), LAYER_SCALE_INIT))
            self.register_parameter(name, scale if config.layer_scale else None)

    def forward(
        self, tokens: Tensor, grid: Grid, rotary: Rotary | None = None
    ) -> tuple[Tensor, Grid]:
        """Return the new tokens and their grid, halved (rounded up) where the block shrinks."""
        normed = self.norm1(tokens)
        if self.shrinks:
            branch = self.attn(take_even(normed, grid), normed)
            tokens = take_even(tokens, grid)
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        else:
            branch = self.attn(normed, rotary=rotary)
        tokens = tokens + _scale(branch, self.layer_scale1)
        branch = _scale(self.mlp(self.norm2(tokens)), self.layer_scale2)
        return tokens + self._drop_path(branch), grid

    def _drop_path(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        mask = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)
        return branch * mask / keep


def _scale(branch: Tensor, scale: Tensor | None) -> Tensor:
    return branch if scale is None else branch * scale


def take_even(tokens: Tensor, grid: Grid) -> Tensor:
    """Return the tokens at even rows and columns, `(B, ceil(h/2) ceil(w/2), C)`."""
    batch, _, width = tokens.shape
    return tokens.view(batch, *grid, width)[:, ::2, ::2].reshape(batch, -1, width)


class VisionTransformer(nn.Module):
    """Encoder that returns the patch tokens after each tapped block, without a final norm.

    Without `keeps_prefix` the class token is concatenated, position-embedded and then removed, as
    in the published SegViT models: it is in their checkpoints and has no effect.

    Attributes:
        checkpoint_activations: recompute each block in the backward pass instead of keeping its
            activations; slower, the same gradients, and much less memory.
    """

    pos_embed: nn.Parameter  # (1, 1 + N, C), with learned positions only

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, patch = config.embed_dim, config.patch_size
        self.config = config
        self.checkpoint_activations = False
        self.patch_size = patch
        self.tap_blocks = config.tap_blocks
        self.trained_grid = (config.grid_size, config.grid_size)
        # DINOv2's authors resize positions with antialiasing since the models with registers.
        self.antialias = config.num_registers > 0
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.num_registers:
            self.registers = nn.Parameter(torch.zeros(1, config.num_registers, dim))
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid_size**2, dim))
        step = config.drop_path_rate / max(config.depth - 1, 1)
        self.blocks = TypedList(
            Block(config, index * step, shrinks=index == config.shrink_block)
            for index in range(config.depth)
        )

    def forward(self, image: Tensor) -> list[tuple[Tensor, Grid]]:
        """Return `[(tokens (B, N, C), (h, w))]`, shallowest tap first.

        Args:
            image: normalised float `(B, 3, H, W)`, zero-padded bottom and right to whole patches.
        """
        height, width = image.shape[-2:]
        patch, num_prefix = self.patch_size, self.config.num_prefix
        image = F.pad(image, (0, -width % patch, 0, -height % patch))
        features = self.patch_embed(image)  # (B, C, h, w)
        grid = (features.shape[2], features.shape[3])
        tokens = self._embed_tokens(features.flatten(2).transpose(1, 2), grid)
        rotary = self.make_rotary(grid)
        if rotary is not None:
            rotary = Rotary(*(table.to(tokens) for table in rotary))
        taps = []
        for index, block in enumerate(self.blocks):
            if self.checkpoint_activations and self.training:
                tokens, grid = checkpoint(block, tokens, grid, rotary, use_reentrant=False)
            else:
                tokens, grid = block(tokens, grid, rotary)
            if index in self.tap_blocks:
                taps.append((tokens[:, num_prefix:], grid))
        return taps

    def make_rotary(self, grid: Grid) -> Rotary | None:
        """Return the rotations of the blocks at this grid, in float64, or None: learned ones."""
        config = self.config
        if config.position == "learned":
            return None
        head_dim = config.embed_dim // config.num_heads
        return make_rotary(grid, head_dim, config.rope_theta, config.num_prefix)

    def _embed_tokens(self, patches: Tensor, grid: Grid) -> Tensor:
        """Return the first block's tokens `(B, P + N, C)` for embedded patches `(B, N, C)`."""
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        if self.config.position == "learned":
            tokens = tokens + resize_pos_embed(
                self.pos_embed, self.trained_grid, grid, self.antialias
            )
        if not self.config.keeps_prefix:
            return tokens[:, 1:]
        if not self.config.num_registers:
            return tokens
        registers = self.registers.expand(len(patches), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)


def resize_pos_embed(
    pos_embed: Tensor, trained: Grid, grid: Grid, antialias: bool = False
) -> Tensor:
    """Return `(1, 1 + h w, C)` position embeddings, bicubically resized where the grid differs.

    Args:
        pos_embed: `(1, 1 + trained_h trained_w, C)`, the class token's first.
        trained: the grid it was made for.
        grid: the grid wanted.
        antialias: filter as wide as the step of the wanted grid; it also is a softer cubic.
    """
    if trained == grid:
        return pos_embed
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    image = patches.transpose(1, 2).unflatten(2, trained)
    image = F.interpolate(
        image, size=grid, mode="bicubic", align_corners=False, antialias=antialias
    )
    return torch.cat([cls, image.flatten(2).transpose(1, 2)], dim=1)
