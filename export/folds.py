"""Exact rewrites of linears and norms, in float64.

A LayerNorm without affine has outputs `n` that sum to zero over the channels. Emitting
`z = n + SHIFT` (scale 1, bias SHIFT) therefore carries a known constant through any linear:
`z (W + 1 u^T) = n W + SHIFT (colsum(W) + C u)` for every `u`, so one choice of `u` yields any bias
without an Add. That matters because an Add between a projection and its attention costs three
shuffle kernels and 9.4 MB a ViT-B block (docs/formulation.md).

Legend: `C` input channels, `D` output channels; weights are `(C, D)`, right operands of a MatMul.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

# 0.25 had the smallest FP16 error of 0.25 ... 1 (docs/formulation.md).
SHIFT = 0.25


class Affine(NamedTuple):
    """How a normalised stream `z = n + SHIFT` stands for its true value `gamma * n + beta`."""

    gamma: Tensor  # (C,), float64
    beta: Tensor  # (C,), float64

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Affine:
        """Return the affine part of a LayerNorm."""
        return cls(norm.weight.detach().double(), norm.bias.detach().double())

    @property
    def residual_bias(self) -> Tensor:
        """Return `b` such that the true value is `gamma * z + b`, `(C,)`."""
        return self.beta - SHIFT * self.gamma


class Projection(NamedTuple):
    """A linear in float64: weight `(C, D)` and bias `(D,)`."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> Projection:
        """Return a torch linear's weight, transposed, and bias."""
        return cls(linear.weight.detach().double().T, linear.bias.detach().double())

    def split(self, parts: int) -> list[Projection]:
        """Return the equal column blocks of a packed projection."""
        blocks = zip(self.weight.chunk(parts, dim=1), self.bias.chunk(parts), strict=True)
        return [Projection(weight, bias) for weight, bias in blocks]

    def scaled(self, factor: float | Tensor) -> Projection:
        """Return the projection times a factor, or a factor an output channel, `(D,)`."""
        return Projection(self.weight * factor, self.bias * factor)

    def apply(self, value: Tensor) -> Tensor:
        """Return `value W + b` for `(..., C)`."""
        return value @ self.weight + self.bias


def fold_affine(projection: Projection, stream: Affine) -> Projection:
    """Return the projection of `n` that equals the given one of `gamma * n + beta`."""
    return Projection(
        projection.weight * stream.gamma[:, None],
        projection.bias + stream.beta @ projection.weight,
    )


def fold_into_bias(projection: Projection, stream: Affine) -> Projection:
    """Return the projection of `z = n + SHIFT` that equals the given one of the true value."""
    weight, bias = fold_affine(projection, stream)
    return Projection(weight, bias - SHIFT * weight.sum(dim=0))


def fold_into_weight(projection: Projection, stream: Affine, with_bias: bool = True) -> Tensor:
    """Return `(C, D)` weights whose bias-free product with `z = n + SHIFT` is the projection.

    Args:
        with_bias: False leaves the constant out, for a caller that knows it has no effect (a key's,
            constant in every softmax row) or adds it elsewhere (a value's).
    """
    weight, bias = fold_affine(projection, stream)
    wanted = bias / SHIFT if with_bias else torch.zeros_like(bias)
    row: Tensor = (wanted - weight.sum(dim=0)) / len(weight)
    return weight + row


def value_bias(value: Projection, output: Projection, stream: Affine) -> Tensor:
    """Return what a value's constant adds behind the output projection, `(D,)`.

    Every softmax row sums to one, so the constant passes through the attention unchanged.
    """
    return fold_affine(value, stream).bias @ output.weight
