"""The Shrunk variant's decode head: query-based upsampling (QU), then one ATM stage.

Its counterpart, query-based downsampling (QD), is the shrinking `Block` of `segvit.vit`.
Shapes: `B` batch, `N` tokens, `M` upsampling queries (= the training crop's patches), `C` backbone
width, `d` decoder width.
Source: SegViT section 3.3 (arXiv 2210.05844).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segvit.atm import DROPOUT, AtmStage, Prediction, TokenProjection
from segvit.config import SegViTConfig
from segvit.vit import Grid, SelfAttention, merge_heads, split_heads


class MemoryAttention(nn.Module):
    """Ordinary multi-head attention of queries to tokens, without mask logits."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the context `(B, M, d)` of `(B, M, d)` queries and `(B, N, d)` tokens."""
        parts = (self.q(queries), *self.kv(tokens).chunk(2, dim=-1))
        heads = (split_heads(part, self.num_heads) for part in parts)
        dropout = DROPOUT if self.training else 0.0
        context = F.scaled_dot_product_attention(*heads, dropout_p=dropout)
        output: Tensor = self.proj(merge_heads(context))
        return output


class UpsamplingLayer(nn.Module):
    """Post-norm transformer decoder layer of QU."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads, dropout=DROPOUT)
        self.cross_attn = MemoryAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the new queries `(B, M, d)`."""
        queries = self.norm1(queries + self.dropout(self.self_attn(queries)))
        queries = self.norm2(queries + self.dropout(self.cross_attn(queries, tokens)))
        hidden = self.dropout(F.relu(self.linear1(queries)))
        output: Tensor = self.norm3(queries + self.dropout(self.linear2(hidden)))
        return output


class ShrunkHead(nn.Module):
    """QU from the full-grid tap, then from the shrunk one; ATM on the restored grid."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, heads, taps = config.decoder_dim, config.decoder_heads, config.tap_blocks
        self.grid: Grid = (config.grid_size, config.grid_size)
        self.upsample_embed = nn.Embedding(config.grid_size**2, dim)
        self.projections = nn.ModuleList(TokenProjection(config.embed_dim, dim) for _ in taps)
        self.stages = nn.ModuleList(
            nn.ModuleList(UpsamplingLayer(dim, heads) for _ in range(config.decoder_layers))
            for _ in taps
        )
        self.atm = AtmStage(config)

    def forward(self, taps: Sequence[tuple[Tensor, Grid]]) -> list[Prediction]:
        """Return one prediction an ATM layer, the final one last, on the training crop's grid."""
        queries = self.upsample_embed.weight.expand(len(taps[-1][0]), -1, -1)
        for (tokens, _), projection, stage in zip(
            taps, self.projections, self.stages, strict=True
        ):
            memory = projection(tokens)
            for layer in stage:
                queries = layer(queries, memory)
        predictions: list[Prediction] = self.atm(queries, self.grid)
        return predictions
