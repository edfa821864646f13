"""Plain vision transformer backbone with tapped blocks.

Shapes: `B` batch, `N` tokens (= `h * w`), `C` width, `h, w` patch grid, `H, W` pixels.
Sources: ViT (arXiv 2010.11929), SegViT section 3.1 (arXiv 2210.05844).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segvit.config import SegViTConfig
from segvit.typed_list import TypedList

LAYER_NORM_EPS = 1e-6

Grid = tuple[int, int]


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Return `(B, N, C)` as `(B, heads, N, C / heads)`."""
    batch, count, width = tokens.shape
    return tokens.view(batch, count, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """Return `(B, heads, N, C / heads)` as `(B, N, C)`."""
    return tokens.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention of queries to tokens, Q, K and V from one packed linear."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return `(B, M, C)` for `(B, M, C)` queries and `(B, N, C)` tokens (default: the same)."""
        if tokens is None:
            parts = self.qkv(queries).chunk(3, dim=-1)
        else:
            dim = self.proj.in_features
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(queries, weight[:dim], bias[:dim])
            parts = (query, *F.linear(tokens, weight[dim:], bias[dim:]).chunk(2, dim=-1))
        query, key, value = (split_heads(part, self.num_heads) for part in parts)
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

    With `shrinks`, the queries and the residual are the tokens at even rows and columns, keys and
    values are all tokens, and the MLP runs on the small set: query-based downsampling.
    Source: SegViT section 3.3 (arXiv 2210.05844).
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float, shrinks: bool) -> None:
        super().__init__()
        self.shrinks = shrinks
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Return the new tokens and their grid, halved (rounded up) where the block shrinks."""
        normed = self.norm1(tokens)
        if self.shrinks:
            tokens = take_even(tokens, grid) + self.attn(take_even(normed, grid), normed)
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        else:
            tokens = tokens + self.attn(normed)
        return tokens + self._drop_path(self.mlp(self.norm2(tokens))), grid

    def _drop_path(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        mask = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)
        return branch * mask / keep


def take_even(tokens: Tensor, grid: Grid) -> Tensor:
    """Return the tokens at even rows and columns, `(B, ceil(h/2) ceil(w/2), C)`."""
    batch, _, width = tokens.shape
    return tokens.view(batch, *grid, width)[:, ::2, ::2].reshape(batch, -1, width)


class VisionTransformer(nn.Module):
    """Encoder that returns the tokens after each tapped block, without a final norm.

    The class token is concatenated, position-embedded and then removed, as in the published
    models: it is in their checkpoints and has no effect.
    """

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, patch = config.embed_dim, config.patch_size
        self.patch_size = patch
        self.tap_blocks = config.tap_blocks
        self.trained_grid = (config.grid_size, config.grid_size)
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid_size**2, dim))
        step = config.drop_path_rate / max(config.depth - 1, 1)
        self.blocks = TypedList(
            Block(dim, config.num_heads, index * step, shrinks=index == config.shrink_block)
            for index in range(config.depth)
        )

    def forward(self, image: Tensor) -> list[tuple[Tensor, Grid]]:
        """Return `[(tokens (B, N, C), (h, w))]`, shallowest tap first.

        Args:
            image: normalised float `(B, 3, H, W)`, zero-padded bottom and right to whole patches.
        """
        height, width = image.shape[-2:]
        patch = self.patch_size
        image = F.pad(image, (0, -width % patch, 0, -height % patch))
        features = self.patch_embed(image)  # (B, C, h, w)
        grid = (features.shape[2], features.shape[3])
        tokens = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = (tokens + resize_pos_embed(self.pos_embed, self.trained_grid, grid))[:, 1:]
        taps = []
        for index, block in enumerate(self.blocks):
            tokens, grid = block(tokens, grid)
            if index in self.tap_blocks:
                taps.append((tokens, grid))
        return taps


def resize_pos_embed(pos_embed: Tensor, trained: Grid, grid: Grid) -> Tensor:
    """Return `(1, 1 + h w, C)` position embeddings, bicubically resized where the grid differs.

    Args:
        pos_embed: `(1, 1 + trained_h trained_w, C)`, the class token's first.
        trained: the grid it was made for.
        grid: the grid wanted.
    """
    if trained == grid:
        return pos_embed
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    image = patches.transpose(1, 2).unflatten(2, trained)
    image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([cls, image.flatten(2).transpose(1, 2)], dim=1)
