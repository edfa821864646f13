"""Attention-to-mask (ATM) decode heads: `cascade` and `single`.

Shapes: `B` batch, `N` tokens (= `h * w`), `Q` queries (one a class), `K` classes, `C` backbone
width, `d` decoder width, `h, w` patch grid.
Sources: SegViT sections 3.1-3.2 (arXiv 2210.05844), SegViTv2 (arXiv 2306.06289).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segvit.config import SegViTConfig
from segvit.layer_macs import count_class_logits, count_decoder_layer, count_projection
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


class DecodeHead(nn.Module, ABC):
    """What every decode head tells of itself, by its config alone.

    `segvit.model.HEADS` finds a head by the name in a config.
    """

    @staticmethod
    @abstractmethod
    def matches(keys: Collection[str]) -> bool:
        """Return whether an official checkpoint's keys can be this head's."""

    @staticmethod
    @abstractmethod
    def official_key(key: str, config: SegViTConfig) -> str:
        """Return the name that the original gives one of this head's keys.

        What all heads share (`segvit.key_maps`) has its official name already.
        """

    @classmethod
    @abstractmethod
    def count_macs(cls, config: SegViTConfig, taps: Sequence[int]) -> int:
        """Return the MACs of one image with so many tokens a tap, as the papers count them."""

    @staticmethod
    def fits_grid(config: SegViTConfig, grid: Grid) -> bool:
        """Return whether the head works on a grid of patches; most work on any."""
        return True

    @staticmethod
    def mask_grid(config: SegViTConfig, grid: Grid) -> Grid:
        """Return the grid of the mask logits, where the deepest tap has `grid`."""
        return grid

    @staticmethod
    def count_predictions(config: SegViTConfig) -> int:
        """Return how many predictions there are in training: one an ATM layer, mostly."""
        return config.decoder_layers

    @staticmethod
    def count_summed_masks(config: SegViTConfig) -> int:
        """Return how many layers' mask logits the final prediction sums."""
        return 1

    @staticmethod
    def list_constant_queries(config: SegViTConfig) -> list[int]:
        """Return how many learned queries enter each decoder that begins with such."""
        return [config.num_classes]

    @staticmethod
    def normalizes_memory(config: SegViTConfig) -> bool:
        """Return whether the tokens that ATM attends to come out of a LayerNorm."""
        return True

    @classmethod
    def _count_layers(cls, config: SegViTConfig, layers: int, tokens: int) -> int:
        """Return the MACs of decoder layers of class queries, and of all class logits."""
        classes, dim = config.num_classes, config.decoder_dim
        logits = cls.count_predictions(config) * count_class_logits(classes, dim)
        return layers * count_decoder_layer(classes, tokens, dim) + logits


def name_stages(key: str) -> str:
    """Return a key of `stages` under the original's name, which counts them from 1."""
    return re.sub(
        r"\.stages\.(\d+)\.(\d+)\.", lambda m: f".decoder_{int(m[1]) + 1}.layers.{m[2]}.", key
    )


def count_projections(config: SegViTConfig, taps: Sequence[int]) -> int:
    """Return the MACs of projecting taps of so many tokens."""
    return sum(count_projection(tokens, config.embed_dim, config.decoder_dim) for tokens in taps)


class CascadeHead(DecodeHead):
    """One ATM stage a tap, deepest first; queries pass on and mask logits accumulate."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, taps = config.decoder_dim, config.tap_blocks
        self.query_embed = nn.Embedding(config.num_classes, dim)
        self.projections = TypedList(TokenProjection(config.embed_dim, dim) for _ in taps)
        self.stages = TypedList(make_stage(config) for _ in taps)
        self.class_embed = nn.Linear(dim, config.num_classes + 1)

    @staticmethod
    def matches(keys: Collection[str]) -> bool:
        """Return whether there are several stages."""
        return any(key.startswith("decode_head.decoder_2.") for key in keys)

    @staticmethod
    def official_key(key: str, config: SegViTConfig) -> str:
        """Return the original's name: stages count from 1."""
        return name_stages(key)

    @staticmethod
    def count_predictions(config: SegViTConfig) -> int:
        """Return one a stage."""
        return len(config.tap_blocks)

    @staticmethod
    def count_summed_masks(config: SegViTConfig) -> int:
        """Return one a stage."""
        return len(config.tap_blocks)

    @classmethod
    def count_macs(cls, config: SegViTConfig, taps: Sequence[int]) -> int:
        """Return the MACs of projections, stages and class logits."""
        layers = len(taps) * config.decoder_layers
        return count_projections(config, taps) + cls._count_layers(config, layers, taps[0])

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
    """Stages of ATM layers on the same tokens; every layer predicts, nothing accumulates."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(config.num_classes, config.decoder_dim)
        stages = (make_stage(config) for _ in range(config.decoder_stages))
        self.layers = TypedList(layer for stage in stages for layer in stage)
        self.class_embed = nn.Linear(config.decoder_dim, config.num_classes + 1)

    def forward(self, memory: Tensor, grid: Grid) -> list[Prediction]:
        """Return one prediction a layer, the final one last, for `(B, N, d)` tokens."""
        queries = self.query_embed.weight.expand(len(memory), -1, -1)
        predictions = []
        for layer in self.layers:
            queries, masks = layer(queries, memory)
            predictions.append(Prediction(self.class_embed(queries), masks.unflatten(2, grid)))
        return predictions


class SingleHead(DecodeHead):
    """ATM on the sum of the projected taps, deepest first; stages pass their queries on."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.projections = TypedList(
            TokenProjection(config.embed_dim, dim) for _ in config.tap_blocks
        )
        self.atm = AtmStage(config)

    @staticmethod
    def matches(keys: Collection[str]) -> bool:
        """Return whether there is one stage, outside of `atm`.

        The keys of several stages are those of a cascade; the file's config tells them apart.
        """
        return "decode_head.class_embed.bias" in keys and not CascadeHead.matches(keys)

    @staticmethod
    def official_key(key: str, config: SegViTConfig) -> str:
        """Return the original's name: stages count from 1, and there is no `atm`."""

        def name_layer(match: re.Match[str]) -> str:
            stage, layer = divmod(int(match[1]), config.decoder_layers)
            return f".decoder_{stage + 1}.layers.{layer}."

        return re.sub(r"\.atm\.layers\.(\d+)\.", name_layer, key).replace(".atm.", ".")

    @staticmethod
    def count_predictions(config: SegViTConfig) -> int:
        """Return one a layer."""
        return config.decoder_stages * config.decoder_layers

    @staticmethod
    def normalizes_memory(config: SegViTConfig) -> bool:
        """Return whether it is one projection's output, no sum of several."""
        return len(config.tap_blocks) == 1

    @classmethod
    def count_macs(cls, config: SegViTConfig, taps: Sequence[int]) -> int:
        """Return the MACs of projections, layers and class logits."""
        layers = config.decoder_stages * config.decoder_layers
        return count_projections(config, taps) + cls._count_layers(config, layers, taps[0])

    def forward(self, taps: Sequence[tuple[Tensor, Grid]]) -> list[Prediction]:
        """Return one prediction a layer, the final one last."""
        pairs = zip(reversed(taps), self.projections, strict=True)
        memory = sum(projection(tokens) for (tokens, _), projection in pairs)
        predictions: list[Prediction] = self.atm(memory, taps[-1][1])
        return predictions
