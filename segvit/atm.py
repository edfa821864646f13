"""Attention-to-mask (ATM) decode heads: `cascade` and `single`.

Shapes: `B` batch, `N` tokens (= `h * w`), `Q` queries (one a class), `K` classes, `C` backbone
width, `d` decoder width, `h, w` patch grid.
Sources: SegViT sections 3.1-3.2 (arXiv 2210.05844), SegViTv2 (arXiv 2306.06289).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segvit.config import SegViTConfig
from segvit.typed_list import TypedList
from segvit.vit import Attention, Grid, merge_heads, split_heads

DROPOUT = 0.1


class Prediction(NamedTuple):
    """Class logits `(B, Q, K + 1)`, the last one "no object", and mask logits `(B, Q, h, w)`."""

    class_logits: Tensor
    mask_logits: Tensor


class AtmAttention(nn.Module):
    """Attention of queries to tokens that also yields the mask logits it is named for.

    The mask logits are the scaled products of queries and keys before the softmax, averaged over
    heads. The mean over heads of per-head products is one full-width product divided by the
    number of heads, so the softmax path stays a plain fused attention.
    Source: SegViT equations 3-4 (arXiv 2210.05844).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = DROPOUT
        self.mask_scale = (dim // num_heads) ** -0.5 / num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context `(B, Q, d)` and the mask logits `(B, Q, N)`."""
        query, key, value = self.q(queries), self.k(tokens), self.v(tokens)
        masks = (query * self.mask_scale) @ key.transpose(1, 2)
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.proj(merge_heads(context)), masks


class DecoderLayer(nn.Module):
    """Post-norm transformer decoder layer: self-attention, cross-attention, ReLU MLP.

    Args:
        predicts_masks: whether the cross-attention is an ATM one (QU's is not).
    """

    def __init__(self, dim: int, num_heads: int, predicts_masks: bool = True) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads, dropout=DROPOUT)
        self.cross_attn = (
            AtmAttention(dim, num_heads) if predicts_masks else Attention(dim, num_heads, DROPOUT)
        )
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the new queries `(B, Q, d)` and the mask logits `(B, Q, N)`, if predicted."""
        queries = self.norm1(queries + self.dropout(self.self_attn(queries)))
        masks: Tensor | None = None
        if isinstance(self.cross_attn, AtmAttention):
            context, masks = self.cross_attn(queries, tokens)
        else:
            context = self.cross_attn(queries, tokens)
        queries = self.norm2(queries + self.dropout(context))
        hidden = self.dropout(F.relu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden))), masks


class TokenProjection(nn.Module):
    """Linear C -> d and LayerNorm: what a decoder sees of a tap."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(B, N, d)` for `(B, N, C)`."""
        output: Tensor = self.norm(self.linear(tokens))
        return output


def set_dropout(head: nn.Module, rate: float) -> None:
    """Set every dropout of a decode head, that of its attention weights too."""
    for module in head.modules():
        if isinstance(module, Attention | AtmAttention):
            module.dropout = rate
        elif isinstance(module, nn.Dropout):
            module.p = rate


def make_stage(config: SegViTConfig, predicts_masks: bool = True) -> TypedList[DecoderLayer]:
    """Return the decoder layers of one stage."""
    dim, heads = config.decoder_dim, config.decoder_heads
    layers = range(config.decoder_layers)
    return TypedList(DecoderLayer(dim, heads, predicts_masks) for _ in layers)


class CascadeHead(nn.Module):
    """One ATM stage a tap, deepest first; queries pass on and mask logits accumulate."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, taps = config.decoder_dim, config.tap_blocks
        self.query_embed = nn.Embedding(config.num_classes, dim)
        self.projections = TypedList(TokenProjection(config.embed_dim, dim) for _ in taps)
        self.stages = TypedList(make_stage(config) for _ in taps)
        self.class_embed = nn.Linear(dim, config.num_classes + 1)

    def forward(self, taps: Sequence[tuple[Tensor, Grid]]) -> list[Prediction]:
        """Return one prediction a stage, the final one last."""
        grid = taps[-1][1]
        queries = self.query_embed.weight.expand(len(taps[-1][0]), -1, -1)
        masks: Tensor | None = None
        predictions = []
        for (tokens, _), projection, stage in zip(
            reversed(taps), self.projections, self.stages, strict=True
        ):
            memory = projection(tokens)
            for layer in stage:
                queries, stage_masks = layer(queries, memory)
            masks = stage_masks if masks is None else masks + stage_masks
            predictions.append(Prediction(self.class_embed(queries), masks.unflatten(2, grid)))
        return predictions


class AtmStage(nn.Module):
    """One ATM stage on given tokens; every layer predicts, nothing accumulates."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(config.num_classes, config.decoder_dim)
        self.layers = make_stage(config)
        self.class_embed = nn.Linear(config.decoder_dim, config.num_classes + 1)

    def forward(self, memory: Tensor, grid: Grid) -> list[Prediction]:
        """Return one prediction a layer, the final one last, for `(B, N, d)` tokens."""
        queries = self.query_embed.weight.expand(len(memory), -1, -1)
        predictions = []
        for layer in self.layers:
            queries, masks = layer(queries, memory)
            predictions.append(Prediction(self.class_embed(queries), masks.unflatten(2, grid)))
        return predictions


class SingleHead(nn.Module):
    """One ATM stage on the sum of the projected taps, deepest first."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.projections = TypedList(
            TokenProjection(config.embed_dim, dim) for _ in config.tap_blocks
        )
        self.atm = AtmStage(config)

    def forward(self, taps: Sequence[tuple[Tensor, Grid]]) -> list[Prediction]:
        """Return one prediction a layer, the final one last."""
        pairs = zip(reversed(taps), self.projections, strict=True)
        memory = sum(projection(tokens) for (tokens, _), projection in pairs)
        predictions: list[Prediction] = self.atm(memory, taps[-1][1])
        return predictions
