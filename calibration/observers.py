"""Ranges of tensors seen one batch at a time, for symmetric quantisation with one scale a tensor.

An observer keeps a histogram of magnitudes and forgets the values, so what it holds does not grow
with the images. Bins are powers of two wide and bin edges multiples of the width: when a larger
value comes, bins merge in pairs without moving a count across an edge, and the histogram is the
one that all values at once would have given, in whatever order they came.

Shapes: `n` bins, `c` candidate limits, `C` channels.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["amax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99

# The largest magnitude lies in the upper half of them: over eight bins to each of 127 steps.
_BINS = 4096
_BINS_LOG2 = 12
# Below 2**-100 a magnitude counts as the smallest bin's: its reciprocal must stay a float32.
_SMALLEST_EXPONENT = -100
# Values a pass over the scratch buffers, which then stay in the processor's second-level cache.
_CHUNK = 1 << 16
_MSE_CANDIDATES = 512
_ENTROPY_STRIDE = 8


class RangeObserver:
    """Largest magnitude and histogram of magnitudes of one tensor.

    Args:
        name: the tensor's, for messages.
        channels: also keep the largest magnitude of each index of the last axis.
    """

    def __init__(self, name: str, channels: bool = False) -> None:
        self.name = name
        self.amax = 0.0
        self.count = 0
        self.zeros = 0
        self._channels = channels
        self._channel_amax: NDArray[np.float32] | None = None
        self._exponent = _SMALLEST_EXPONENT
        self._counts = np.zeros(_BINS, np.int64)

    @property
    def channel_amax(self) -> NDArray[np.float32]:
        """Largest magnitudes over the last axis `(C,)`.

        Raises:
            ValueError: if they were not asked for, or no values came.
        """
        if self._channel_amax is None:
            reason = "no values came" if self._channels else "it was made without channels=True"
            raise ValueError(f"tensor '{self.name}': no ranges by channel are known, {reason}")
        return self._channel_amax

    @property
    def bin_width(self) -> float:
        """Width of a bin, in the tensor's unit."""
        return math.ldexp(1.0, self._exponent - _BINS_LOG2)

    def histogram(self) -> NDArray[np.int64]:
        """Return counts `(n,)` of magnitudes other than 0; bin i is [i, i + 1) bin widths."""
        counts = self._counts.copy()
        counts[0] -= self.zeros
        return counts

    def update(self, values: NDArray[np.floating]) -> None:
        """Take note of float32 or float16 values of any shape.

        Raises:
            ValueError: if some are NaN or infinite, which leaves the observer as it was, or the
                number of channels changes.
        """
        if values.size == 0:
            return
        values = np.ascontiguousarray(values, dtype=np.float32)
        if self._channels:
            rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
            by_channel = np.maximum(rows.max(axis=0), -rows.min(axis=0))  # (C,)
            amax = float(by_channel.max())
        else:
            amax = max(float(values.max()), -float(values.min()))
        if not math.isfinite(amax):
            raise self._not_finite(values)
        if self._channels:
            self._merge_channels(by_channel)
        self._cover(amax)
        self._fill(values.reshape(-1))
        self.amax = max(self.amax, amax)
        self.count += values.size

    def limit(self, method: Method, largest: float, percentile: float = PERCENTILE) -> float:
        """Return the magnitude at which to clip, at most `amax`; it becomes `largest` steps.

        Args:
            method: `amax` clips nothing; `percentile` keeps that share of all values;
                `entropy` loses the least information; `mse` makes the least squared error.
            largest: the largest quantised magnitude, such as 127. `entropy` and `mse` assume
                steps of equal size up to it, which FP8's are not.
            percentile: for that method, in percent.

        Raises:
            ValueError: if no value other than 0 was seen, or an argument is out of range.

        Source: Wu et al. 2020, arXiv 2004.09602, section 3.1 (max, percentile, entropy).
        """
        if method not in METHODS:
            raise ValueError(f"calibration method '{method}': expected one of {', '.join(METHODS)}")
        if not 1 <= largest < math.inf:
            raise ValueError(f"largest quantised magnitude: expected 1 or more, got {largest}")
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile: expected above 0 and up to 100, got {percentile}")
        if self.amax == 0:
            seen = "no values came" if self.count == 0 else f"all {self.count} values are 0"
            raise ValueError(
                f"tensor '{self.name}' has no range: {seen}; calibrate with more varied images, "
                "or leave what it feeds in floating point"
            )
        if method == "amax":
            return self.amax
        if method == "percentile":
            limit = _find_percentile(self._counts, percentile) * self.bin_width
        elif method == "entropy":
            limit = _find_least_divergence(self.histogram(), largest) * self.bin_width
        else:
            in_bins = self.amax / self.bin_width
            limit = _find_least_error(self.histogram(), in_bins, largest) * self.bin_width
        return min(limit, self.amax)

    def _merge_channels(self, by_channel: NDArray[np.float32]) -> None:
        if self._channel_amax is None:
            self._channel_amax = np.zeros_like(by_channel)
        if self._channel_amax.shape != by_channel.shape:
            raise ValueError(
                f"tensor '{self.name}': expected {self._channel_amax.size} channels as before, "
                f"got {by_channel.size}; its last axis must be the channels"
            )
        np.maximum(self._channel_amax, by_channel, out=self._channel_amax)

    def _cover(self, amax: float) -> None:
        """Widen the bins until `amax` falls below the upper end, merging those there are."""
        exponent = max(math.frexp(amax)[1], _SMALLEST_EXPONENT)  # amax < 2**exponent
        doublings = exponent - self._exponent
        if doublings <= 0:
            return
        group = 1 << min(doublings, _BINS_LOG2)
        merged = self._counts.reshape(-1, group).sum(axis=1)
        self._counts = np.zeros(_BINS, np.int64)
        self._counts[: merged.size] = merged
        self._exponent = exponent

    def _fill(self, values: NDArray[np.float32]) -> None:
        bins_per_unit = np.float32(1 / self.bin_width)
        scaled = np.empty(min(_CHUNK, values.size), np.float32)
        indices = np.empty(scaled.size, np.intp)
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            self.zeros += chunk.size - int(np.count_nonzero(chunk))
            # Exact: a power of two, and the cast drops the fraction.
            np.multiply(
                np.abs(chunk, out=scaled[: chunk.size]), bins_per_unit, out=scaled[: chunk.size]
            )
            np.copyto(indices[: chunk.size], scaled[: chunk.size], casting="unsafe")
            self._counts += np.bincount(indices[: chunk.size], minlength=_BINS)

    def _not_finite(self, values: NDArray[np.float32]) -> ValueError:
        nans = int(np.isnan(values).sum())
        infinite = int(np.isinf(values).sum())
        return ValueError(
            f"tensor '{self.name}': expected finite values, got {nans} NaN and {infinite} infinite "
            f"of {values.size}; a 16-bit graph may overflow here, calibrate the FP32 one"
        )


def _find_percentile(counts: NDArray[np.int64], percentile: float) -> int:
    """Return the first bin edge, in bins, that this share of all values, zeros too, lies below."""
    cumulative = counts.cumsum()
    # Whole values, lest 99.9999999 % of a million round to all but one.
    wanted = math.ceil(round(cumulative[-1] * percentile / 100, 6))
    return int(np.searchsorted(cumulative, wanted)) + 1


def _find_least_divergence(counts: NDArray[np.int64], largest: float) -> int:
    """Return the bin edge, in bins, whose clipping and rounding change the distribution least.

    The reference P is the histogram with what lies beyond the edge put into the last bin; Q is
    the histogram without it, spread evenly over the occupied bins of each quantised level. The
    edge of the smallest KL(P || Q) wins, the larger one of equals. Zeros are not in it: they
    are exact under any scale. Where values are put into an empty last bin, Q counts one there:
    else no edge in the gap below a few far outliers, which vision transformers have, could win.

    Source: Migacz 2017, "8-bit inference with TensorRT" (GTC S7310), and arXiv 2004.09602,
    section 3.1.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1
    levels = math.floor(largest) + 1
    best, best_divergence = used, math.inf
    for edge in range(used, levels, -_ENTROPY_STRIDE):
        divergence = _divergence(counts[:edge], int(counts[edge:].sum()), levels)
        if divergence < best_divergence:
            best, best_divergence = edge, divergence
    return best


def _divergence(kept: NDArray[np.int64], clipped: int, levels: int) -> float:
    """Return KL(P || Q) in nats; infinite where everything is clipped."""
    if not kept.any():
        return math.inf
    reference = kept.astype(np.float64)
    reference[-1] += clipped
    if clipped and kept[-1] == 0:
        kept = np.append(kept[:-1], 1)
    starts = (np.arange(levels) * kept.size) // levels
    occupied = kept > 0
    bins = np.add.reduceat(occupied, starts, dtype=np.int64)
    means = np.add.reduceat(kept, starts) / np.maximum(bins, 1)
    q = np.repeat(means, np.diff(starts, append=kept.size))[occupied] / kept.sum()
    p = reference[occupied] / reference.sum()
    return float((p * np.log(p / q)).sum())


def _find_least_error(counts: NDArray[np.int64], amax: float, largest: float) -> float:
    """Return the limit, in bins, of the least expected squared error; the largest of equals.

    Values are taken as spread evenly over their bin, and the error of rounding to, and clipping
    at, `largest` steps is integrated over it in closed form.

    Args:
        counts: `(n,)`.
        amax: the largest magnitude, in bins; candidates are equal fractions of it.
        largest: the largest quantised magnitude.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1
    weights = counts[:used].astype(np.float64)
    edges = np.arange(used + 1, dtype=np.float64)
    candidates = amax * np.arange(_MSE_CANDIDATES, 0, -1) / _MSE_CANDIDATES
    errors = [
        float(weights @ np.diff(_integrate_error(edges, limit / largest, largest)))
        for limit in candidates
    ]
    return float(candidates[int(np.argmin(errors))])


def _integrate_error(x: NDArray[np.float64], step: float, largest: float) -> NDArray[np.float64]:
    """Return the integral from 0 to `x` of the squared error of quantising with this step.

    Each full period adds step**3 / 12; from the nearest level on, at most the largest, the error
    grows as the distance does, so that the rest is its cube by three, of its sign.
    """
    nearest = np.minimum(np.rint(x / step), math.floor(largest))
    return nearest * (step**3 / 12) + (x - nearest * step) ** 3 / 3
