"""Every fold equals what it replaces, in float64, on streams with real scales and biases."""

import pytest
import torch
from torch import Tensor, nn

from export.folds import (
    SHIFT,
    Affine,
    Projection,
    fold_affine,
    fold_into_bias,
    fold_into_weight,
    value_bias,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _stream(generator: torch.Generator, dim: int = 24) -> tuple[Tensor, Affine, Tensor]:
    """Return a plain normalised stream, its affine and its true value."""
    value = torch.randn(5, dim, dtype=torch.float64, generator=generator) * 3 + 1
    plain = nn.functional.layer_norm(value, (dim,))
    affine = Affine(*torch.randn(2, dim, dtype=torch.float64, generator=generator))
    return plain, affine, plain * affine.gamma + affine.beta


def _projection(generator: torch.Generator, dim: int = 24, out: int = 10) -> Projection:
    weight = torch.randn(dim, out, dtype=torch.float64, generator=generator)
    return Projection(weight, torch.randn(out, dtype=torch.float64, generator=generator))


def test_affine_folds_into_weight_and_bias(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    projection = _projection(generator)
    folded = fold_affine(projection, affine)
    torch.testing.assert_close(folded.apply(plain), projection.apply(true))


def test_shift_folds_into_bias(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    projection = _projection(generator)
    folded = fold_into_bias(projection, affine)
    torch.testing.assert_close(folded.apply(plain + SHIFT), projection.apply(true))


def test_bias_rides_on_the_shift(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    projection = _projection(generator)
    product = (plain + SHIFT) @ fold_into_weight(projection, affine)
    torch.testing.assert_close(product, projection.apply(true))


def test_without_bias_only_a_constant_is_missing(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    projection = _projection(generator)
    product = (plain + SHIFT) @ fold_into_weight(projection, affine, with_bias=False)
    missing = projection.apply(true) - product
    torch.testing.assert_close(missing, missing[:1].expand_as(missing))
    assert missing.abs().max() > 0.1


def test_value_constant_passes_the_attention(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    value, output = _projection(generator), _projection(generator, 10, 6)
    weights = torch.rand(3, 5, dtype=torch.float64, generator=generator).softmax(dim=-1)
    expected = output.apply(weights @ value.apply(true))
    stripped = (plain + SHIFT) @ fold_into_weight(value, affine, with_bias=False)
    got = output.apply(weights @ stripped) + value_bias(value, output, affine)
    torch.testing.assert_close(got, expected)


def test_residual_bias_restores_the_true_value(generator: torch.Generator) -> None:
    plain, affine, true = _stream(generator)
    restored = affine.gamma * (plain + SHIFT) + affine.residual_bias
    torch.testing.assert_close(restored, true)


def test_projection_splits_and_scales(generator: torch.Generator) -> None:
    packed = _projection(generator, 8, 12)
    parts = packed.split(3)
    assert [tuple(part.weight.shape) for part in parts] == [(8, 4)] * 3
    torch.testing.assert_close(torch.cat([part.bias for part in parts]), packed.bias)
    value = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(packed.scaled(0.5).apply(value), packed.apply(value) / 2)
    each = torch.randn(12, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(packed.scaled(each).apply(value), packed.apply(value) * each)
