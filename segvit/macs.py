"""Multiply-accumulates of a SegViT by part, counted as its papers count them.

One image at the training crop. `segvit.layer_macs` says what a layer counts; bilinear resizing
counts 4 an output value. LayerScale and rotary positions count nothing, but prefix tokens do. The
predictions of the earlier stages are counted too, although a deployed model drops them.
Sources: SegViT (arXiv 2210.05844) and SegViTv2 (arXiv 2306.06289), their tables' GFLOPs.
"""

from __future__ import annotations

from segvit.config import SegViTConfig
from segvit.layer_macs import count_block
from segvit.model import HEADS

RESIZE_MACS = 4  # an output value


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
        blocks += count_block(queries + prefix, keys + prefix, config.embed_dim)
    taps = [
        tokens if shrink is None or tap < shrink else shrunk_tokens for tap in config.tap_blocks
    ]
    return {
        "patch_embed": tokens * 3 * config.patch_size**2 * config.embed_dim,
        "blocks": blocks,
        "decode_head": HEADS[config.head].count_macs(config, taps),
        "upsample_and_mix": _count_tail(config, tokens),
    }


def _count_tail(config: SegViTConfig, tokens: int) -> int:
    """Return the MACs of resizing masks and scores to the image, and of mixing the classes."""
    classes, pixels = config.num_classes, config.image_size**2
    # Every prediction's masks are first resized to their own grid, which counts as any other.
    predictions = HEADS[config.head].count_predictions(config)
    masks = RESIZE_MACS * classes * (predictions * tokens + pixels)
    return masks + classes**2 * pixels + RESIZE_MACS * classes * pixels
