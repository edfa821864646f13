"""Multiply-accumulates of a SegViT's layers, counted as its papers count them.

A linear, MatMul, convolution or einsum counts its multiplications, LayerNorm 5 an element; biases,
activations and softmax count nothing.

Shapes: `N` tokens, `Q` queries, `C` backbone width, `d` decoder width.
Sources: SegViT (arXiv 2210.05844) and SegViTv2 (arXiv 2306.06289), their tables' GFLOPs.
"""

from __future__ import annotations

NORM_MACS = 5  # an element


def count_block(queries: int, keys: int, dim: int) -> int:
    """Return a pre-norm block's MACs; queries are fewer than keys where it downsamples."""
    projections = 2 * queries * dim**2 + 2 * keys * dim**2
    attention = 2 * queries * keys * dim
    mlp = 8 * queries * dim**2
    return projections + attention + mlp + NORM_MACS * (keys + queries) * dim


def count_decoder_layer(queries: int, tokens: int, dim: int) -> int:
    """Return a decoder layer's MACs: self-attention, cross-attention, MLP, three norms."""
    self_attention = 4 * queries * dim**2 + 2 * queries**2 * dim
    cross_attention = 2 * queries * dim**2 + 2 * tokens * dim**2 + 2 * queries * tokens * dim
    mlp = 8 * queries * dim**2
    return self_attention + cross_attention + mlp + 3 * NORM_MACS * queries * dim


def count_projection(tokens: int, in_dim: int, dim: int) -> int:
    """Return the MACs of a tap's linear C -> d and its LayerNorm."""
    return tokens * in_dim * dim + NORM_MACS * tokens * dim


def count_class_logits(classes: int, dim: int) -> int:
    """Return the MACs of one prediction's class logits, "no object" included."""
    return classes * dim * (classes + 1)
