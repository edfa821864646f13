"""The Shrunk variant's decode head: query-based upsampling (QU), then one ATM stage.

Its counterpart, query-based downsampling (QD), is the shrinking `Block` of `segvit.vit`.
Shapes: `B` batch, `N` tokens, `M` upsampling queries (= the training crop's patches), `C` backbone
width, `d` decoder width.
Source: SegViT section 3.3 (arXiv 2210.05844).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from segvit.atm import (
    AtmStage,
    DecodeHead,
    Prediction,
    TokenProjection,
    count_projections,
    make_stage,
    name_stages,
)
from segvit.config import SegViTConfig
from segvit.layer_macs import count_decoder_layer
from segvit.typed_list import TypedList
from segvit.vit import Attention, Grid


class ShrunkHead(DecodeHead):
    """QU from the full-grid tap, then from the shrunk one; ATM on the restored grid."""

    def __init__(self, config: SegViTConfig) -> None:
        super().__init__()
        dim, taps = config.decoder_dim, config.tap_blocks
        self.grid = self.mask_grid(config, (config.grid_size, config.grid_size))
        self.upsample_embed = nn.Embedding(config.grid_size**2, dim)
        self.projections = TypedList(TokenProjection(config.embed_dim, dim) for _ in taps)
        self.stages = TypedList(make_stage(config, predicts_masks=False) for _ in taps)
        self.atm = AtmStage(config)

    @staticmethod
    def matches(keys: Collection[str]) -> bool:
        """Return whether ATM lies under `atm`."""
        return any(key.startswith("decode_head.atm.") for key in keys)

    @staticmethod
    def official_key(key: str, config: SegViTConfig) -> str:
        """Return the original's name: stages count from 1, and QU's attention is PyTorch's own."""
        if ".stages." in key:
            key = key.replace(".multihead_attn.proj.", ".multihead_attn.out_proj.")
        key = key.replace(".atm.layers.", ".atm.decoder_1.layers.")
        return name_stages(key).replace(".upsample_embed.", ".q.")

    @staticmethod
    def fits_grid(config: SegViTConfig, grid: Grid) -> bool:
        """Return whether it is square, as QD samples it and QU restores it."""
        return grid[0] == grid[1]

    @staticmethod
    def mask_grid(config: SegViTConfig, grid: Grid) -> Grid:
        """Return the grid that QU restores, whatever the taps'."""
        return (config.grid_size, config.grid_size)

    @staticmethod
    def list_constant_queries(config: SegViTConfig) -> list[int]:
        """Return those of the classes and of QU, one a patch."""
        return [config.num_classes, config.grid_size**2]

    @classmethod
    def count_macs(cls, config: SegViTConfig, taps: Sequence[int]) -> int:
        """Return the MACs of projections, QU, ATM on the restored grid and class logits."""
        layers, dim, tokens = config.decoder_layers, config.decoder_dim, config.grid_size**2
        upsampling = sum(layers * count_decoder_layer(tokens, tap, dim) for tap in taps)
        atm = cls._count_layers(config, layers, tokens)
        return count_projections(config, taps) + upsampling + atm

    @torch.no_grad()
    def look_at_own_place(self, code: Tensor) -> None:
        """Start QU's queries as the code of their own positions, and let like attend to like.

        From random weights every query attends evenly to all tokens, and thousands of steps pass
        before it finds its place.

        Args:
            code: `(M, C)` what the backbone adds to its tokens for their positions.
        """
        self.upsample_embed.weight.copy_(self.projections[0](code))
        for stage in self.stages:
            for layer in stage:
                assert isinstance(layer.cross_attn, Attention)
                query, key, _ = layer.cross_attn.qkv.weight.chunk(3)
                query.mul_(2**0.5)
                key.copy_(query)

    def forward(self, taps: Sequence[tuple[Tensor, Grid]]) -> list[Prediction]:
        """Return one prediction an ATM layer, the final one last, on the training crop's grid."""
        queries = self.upsample_embed.weight.expand(len(taps[-1][0]), -1, -1)
        for (tokens, _), projection, stage in zip(taps, self.projections, self.stages, strict=True):
            memory = projection(tokens)
            for layer in stage:
                queries, _ = layer(queries, memory)
        predictions: list[Prediction] = self.atm(queries, self.grid)
        return predictions
