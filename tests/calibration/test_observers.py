"""Ranges from a histogram against hand-computed ones and against the values themselves."""

from __future__ import annotations

import math
import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from calibration.observers import METHODS, Method, RangeObserver

VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)
PARTS = st.lists(VALUES, min_size=1, max_size=6).filter(lambda parts: any(p.any() for p in parts))
SEEDS = st.integers(0, 2**32 - 1)


def observe(*parts: NDArray[np.floating], channels: bool = False) -> RangeObserver:
    observer = RangeObserver("encoder/0/Gelu", channels)
    for part in parts:
        observer.update(part)
    return observer


def quantised_error(values: NDArray[np.float32], limit: float, largest: int) -> float:
    wide = values.astype(np.float64)
    step = limit / largest
    levels = np.clip(np.rint(wide / step), -largest, largest)
    return float(((levels * step - wide) ** 2).mean())


def heavy_tailed(seed: int, count: int = 20_000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(3, count).astype(np.float32)


def test_amax_is_the_largest_magnitude_of_either_sign() -> None:
    assert observe(np.float32([1, -3.5]), np.float32([[2.0]])).limit("amax", 127) == 3.5
    assert observe(np.float32([1, 2]), np.float32([2.25])).limit("amax", 127) == 2.25


def test_histogram_counts_by_hand() -> None:
    # Below 4, so that 4096 bins of 1/1024: 1.0 is the lower edge of bin 1024.
    observer = observe(np.float32([0, 0, 1, -1, 3.9999]))
    assert observer.bin_width == 1 / 1024
    counts = observer.histogram()
    assert (counts[0], counts[1024], counts[4095]) == (0, 2, 1)
    assert counts.sum() == 3
    assert (observer.zeros, observer.count) == (2, 5)
    # 8 needs a range of 16: two doublings, four bins to one.
    observer.update(np.float32([8]))
    counts = observer.histogram()
    assert (counts[256], counts[1023], counts[2048]) == (2, 1, 1)


def test_percentile_by_hand() -> None:
    values = np.arange(1, 101, dtype=np.float32)  # bins are 1/32 wide
    observer = observe(values)
    assert observer.limit("percentile", 127, 90) == 90 + 1 / 32
    assert observer.limit("percentile", 127, 100) == 100
    # 99.99 % of 10000 ones and one outlier: the outlier is clipped.
    spiked = observe(np.append(np.ones(20_000, np.float32), np.float32(1000)))
    assert spiked.limit("percentile", 127) == pytest.approx(1, abs=spiked.bin_width)
    assert spiked.limit("amax", 127) == 1000


def test_percentile_counts_zeros() -> None:
    values = np.zeros(100, np.float32)
    values[:4] = (5, 6, 7, 8)
    observer = observe(values)
    assert observer.limit("percentile", 127, 97) == 5 + observer.bin_width
    assert observer.limit("percentile", 127, 96) == observer.bin_width


def test_mse_by_hand() -> None:
    # Three levels at 0, 1 and 2 hold these values exactly with the limit at 2.
    exact = observe(np.float32([1, 2, 1, 2]))
    assert exact.limit("mse", 2) == pytest.approx(2, rel=2e-3)
    # One level beside 0, n values at 1 and one at 10: the limit L costs n (L-1)^2 + (10-L)^2,
    # least at (n + 10) / (n + 1), as long as 1 rounds up to L < 2.
    spiked = observe(np.append(np.ones(99, np.float32), np.float32(10)))
    assert spiked.limit("mse", 1) == pytest.approx(109 / 100, abs=10 / 512)


def test_mse_of_a_normal_distribution() -> None:
    # The optimum of 4 bits, symmetric, without the lowest level: 2.6 sigma.
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    limit = observe(values).limit("mse", 7)
    grid = np.linspace(1.5, 4, 251)
    best = grid[np.argmin([quantised_error(values, float(x), 7) for x in grid])]
    assert limit == pytest.approx(best, abs=0.03)


def test_entropy_clips_an_outlier_and_keeps_a_uniform_range() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, 200_000).astype(np.float32)
    assert observe(uniform).limit("entropy", 127) > 0.95
    spiked = np.append(uniform, np.float32([40, -40]))
    # Bins are 1/64 wide, and each of 128 levels takes one at least.
    assert 0.9 < observe(spiked).limit("entropy", 127) <= 136 / 64
    assert observe(np.zeros(9, np.float32), uniform).limit("entropy", 127) == observe(
        uniform
    ).limit("entropy", 127)


@pytest.mark.parametrize("method", METHODS)
def test_one_value_alone_is_kept(method: Method) -> None:
    assert observe(np.float32([-0.75, 0])).limit(method, 127) == pytest.approx(0.75, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e30, 3e38])
def test_any_magnitude_of_float32_has_a_range(method: Method, scale: float) -> None:
    values = np.linspace(0, 1, 1000, dtype=np.float32) * np.float32(scale)
    limit = observe(values).limit(method, 127)
    assert 0 < limit <= values.max()
    assert limit > 0.5 * scale or scale < 2.0**-100


def test_float16_is_read_as_its_values() -> None:
    values = np.float16([0.1, -65504])
    assert observe(values).limit("amax", 127) == 65504
    assert observe(values).histogram().sum() == 2


@given(parts=PARTS)
def test_histogram_is_exact_under_doubling(parts: list[NDArray[np.float32]]) -> None:
    observer = observe(*parts)
    magnitudes = np.abs(np.concatenate(parts)).astype(np.float64)
    counts = np.bincount(
        np.floor(magnitudes[magnitudes > 0] / observer.bin_width).astype(int), minlength=4096
    )
    assert (observer.histogram() == counts).all()
    assert observer.zeros == np.count_nonzero(magnitudes == 0)
    assert observer.count == magnitudes.size
    assert observer.amax == magnitudes.max()


@settings(max_examples=15)
@given(parts=PARTS, order=st.randoms(use_true_random=False))
def test_order_does_not_matter(parts: list[NDArray[np.float32]], order: object) -> None:
    shuffled = list(parts)
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    first, second = observe(*parts), observe(*shuffled)
    for method in get_args(Method):
        assert first.limit(method, 127) == second.limit(method, 127)


@settings(max_examples=40)
@given(parts=PARTS, method=st.sampled_from(METHODS), largest=st.sampled_from([1, 7, 127, 448]))
def test_limit_is_positive_and_at_most_amax(
    parts: list[NDArray[np.float32]], method: Method, largest: int
) -> None:
    observer = observe(*parts)
    assert 0 < observer.limit(method, largest) <= observer.amax


@given(parts=PARTS, more=VALUES)
def test_more_data_never_lowers_amax(
    parts: list[NDArray[np.float32]], more: NDArray[np.float32]
) -> None:
    observer = observe(*parts)
    before = observer.limit("amax", 127)
    observer.update(more)
    assert observer.limit("amax", 127) >= before


@settings(max_examples=10)
@given(seed=SEEDS, largest=st.sampled_from([7, 127]))
def test_mse_is_not_worse_than_amax_on_the_values(seed: int, largest: int) -> None:
    values = heavy_tailed(seed)
    observer = observe(values)
    error = quantised_error(values, observer.limit("mse", largest), largest)
    # Moving each value by up to a bin changes the root of the error by at most a bin.
    allowed = math.sqrt(quantised_error(values, observer.amax, largest)) + observer.bin_width
    assert math.sqrt(error) <= allowed


@settings(max_examples=10)
@given(seed=SEEDS, percentile=st.sampled_from([50.0, 99.0, 99.99]))
def test_percentile_is_numpy_s_within_a_bin(seed: int, percentile: float) -> None:
    values = heavy_tailed(seed)
    observer = observe(*np.split(values, 4))
    expected = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert abs(observer.limit("percentile", 127, percentile) - expected) <= observer.bin_width


def test_large_updates_count_every_value() -> None:
    values = heavy_tailed(0, 300_001)
    observer = observe(values.reshape(1, -1))
    assert observer.histogram().sum() + observer.zeros == 300_001


def test_channels_keep_their_own_amax() -> None:
    values = np.float32([[[1, -2, 0], [-3, 1, 0]]])  # (1, 2, 3)
    observer = observe(values, np.float32([[[0, 0, -5]]]), channels=True)
    assert observer.channel_amax.tolist() == [3, 2, 5]
    assert observer.limit("amax", 127) == 5
    with pytest.raises(ValueError, match="'encoder/0/Gelu': expected 3 channels as before, got 2"):
        observer.update(np.zeros((1, 2), np.float32))


def test_channels_that_were_not_asked_for() -> None:
    with pytest.raises(ValueError, match="made without channels=True"):
        _ = observe(np.float32([1])).channel_amax
    with pytest.raises(ValueError, match="no values came"):
        _ = observe(channels=True).channel_amax


@pytest.mark.parametrize("channels", [False, True])
def test_values_that_are_not_finite_are_counted_and_not_kept(channels: bool) -> None:
    observer = observe(np.float32([[1, 2]]), channels=channels)
    bad = np.float32([[np.nan, 9], [np.inf, -np.inf], [np.nan, np.nan]])
    expected = "tensor 'encoder/0/Gelu': expected finite values, got 3 NaN and 2 infinite of 6"
    with pytest.raises(ValueError, match=re.escape(expected)):
        observer.update(bad)
    assert observer.limit("amax", 127) == 2
    assert observer.count == 2
    with pytest.raises(ValueError, match="0 NaN and 1 infinite of 1"):
        observer.update(np.float16([-np.inf]))


def test_a_tensor_without_range() -> None:
    observer = observe(np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="'encoder/0/Gelu' has no range: no values came"):
        observer.limit("amax", 127)
    observer.update(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="all 4 values are 0; calibrate with more varied images"):
        observer.limit("mse", 127)


def test_arguments_out_of_range() -> None:
    observer = observe(np.float32([1]))
    with pytest.raises(ValueError, match="method 'max': expected one of amax, percentile, entropy"):
        observer.limit("max", 127)  # type: ignore[arg-type]
    for largest in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="largest quantised magnitude: expected 1 or more"):
            observer.limit("amax", largest)
    for percentile in (0, 100.1, math.nan):
        with pytest.raises(ValueError, match="percentile: expected above 0 and up to 100"):
            observer.limit("percentile", 127, percentile)
