"""Multiply-accumulates of a SegViT, counted as its papers count them.

One image at the training crop. A linear, matrix product, convolution or einsum counts its
multiplications, LayerNorm 5 an element, bilinear resizing 4 an output value; activations, softmax
and biases count nothing; nor do LayerScale and rotary positions, but prefix tokens do. The
predictions of the earlier stages are counted too, although a deployed model drops them.

Shapes: `N` tokens, `Q` queries, `K` classes, `C` backbone width, `d` decoder width.
Sources: SegViT (arXiv 2210.05844) and SegViTv2 (arXiv 2306.06289), their tables' GFLOPs.
"""

from __future__ import annotations

from segvit.config import SegViTConfig


def count_macs(config: SegViTConfig) -> dict[str, int]:
    """Return MACs by part: patch embedding, encoder blocks, decode head, upsampling and mix."""
    tokens = config.grid_size**2
    shrunk_tokens = ((config.grid_size + 1) // 2) ** 2
    shrink = config.shrink_block
    blocks = 0
    for index in range(config.depth):
        keys = tokens if shrink is None or index <= shrink else shrunk_tokens
        queries = tokens if shrink is None or index < shrink else shrunk_tokens
        prefix = config.num_prefix
        blocks += _count_block(queries + prefix, keys + prefix, config.embed_dim)
    taps = [
        tokens if shrink is None or tap < shrink else shrunk_tokens for tap in config.tap_blocks
    ]
    count_head = _count_shrunk_head if config.head == "shrunk" else _count_atm_head
    return {
        "patch_embed": tokens * 3 * config.patch_size**2 * config.embed_dim,
        "blocks": blocks,
        "decode_head": count_head(config, tokens, taps),
        "upsample_and_mix": _count_tail(config, tokens),
    }


def _count_block(queries: int, keys: int, dim: int) -> int:
    """Return a pre-norm block's MACs; queries are fewer than keys where it downsamples."""
    projections = 2 * queries * dim**2 + 2 * keys * dim**2
    attention = 2 * queries * keys * dim
    mlp = 8 * queries * dim**2
    return projections + attention + mlp + 5 * keys * dim + 5 * queries * dim


def _count_layer(queries: int, tokens: int, dim: int) -> int:
    """Return a decoder layer's MACs: self-attention, cross-attention, MLP, three norms."""
    self_attention = 4 * queries * dim**2 + 2 * queries**2 * dim
    cross_attention = 2 * queries * dim**2 + 2 * tokens * dim**2 + 2 * queries * tokens * dim
    return self_attention + cross_attention + 8 * queries * dim**2 + 15 * queries * dim


def _count_projection(tokens: int, config: SegViTConfig) -> int:
    return tokens * config.embed_dim * config.decoder_dim + 5 * tokens * config.decoder_dim


def _count_predictions(config: SegViTConfig) -> int:
    """Return how many predictions the head makes: one a stage, or one a layer of its only stage."""
    return len(config.tap_blocks) if config.head == "cascade" else config.decoder_layers


def _count_class_embed(config: SegViTConfig) -> int:
    queries = config.num_classes
    return _count_predictions(config) * queries * config.decoder_dim * (queries + 1)


def _count_atm_head(config: SegViTConfig, tokens: int, taps: list[int]) -> int:
    stages = len(taps) if config.head == "cascade" else 1
    layer = _count_layer(config.num_classes, tokens, config.decoder_dim)
    projections = sum(_count_projection(tap, config) for tap in taps)
    return projections + stages * config.decoder_layers * layer + _count_class_embed(config)


def _count_shrunk_head(config: SegViTConfig, tokens: int, taps: list[int]) -> int:
    layers, dim = config.decoder_layers, config.decoder_dim
    total = _count_class_embed(config) + layers * _count_layer(config.num_classes, tokens, dim)
    for tap in taps:
        total += _count_projection(tap, config) + layers * _count_layer(tokens, tap, dim)
    return total


def _count_tail(config: SegViTConfig, tokens: int) -> int:
    """Return the MACs of resizing masks and scores to the image, and of mixing the classes."""
    classes, pixels = config.num_classes, config.image_size**2
    # Every prediction's masks are first resized to their own grid, which counts as any other.
    masks = 4 * classes * (_count_predictions(config) * tokens + pixels)
    return masks + classes**2 * pixels + 4 * classes * pixels
