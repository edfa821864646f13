"""Ratios of latencies with intervals, from rounds in which the candidates took turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_ROUNDS = 10
_LARGEST_CORRELATION = 0.9
_MOST_VALUES = 4_000_000  # resampled at once: 32 MB


@dataclass(frozen=True)
class RatioInterval:
    """How much longer one candidate takes than another, and what bounds it.

    `ratio` is the median over rounds of one latency over the other of the same round, so that
    what slows a whole round down cancels; `low` and `high` bound it with `confidence`, and
    `autocorrelation` is that of one round's ratio with the next one's.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    confidence: float = CONFIDENCE
    autocorrelation: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1, that is, whether a difference was found.

        Fewer than 10 rounds find none: their interval is too narrow to be believed.
        """
        return self.rounds >= FEWEST_ROUNDS and not self.low <= 1.0 <= self.high

    def overlaps(self, other: RatioInterval) -> bool:
        """Return whether two intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high


def compare_paired(
    samples_ms: Sequence[float],
    base_ms: Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> RatioInterval:
    """Return the ratio of two candidates' latencies, round by round.

    A machine that is shared stays slow or fast for several rounds, which then say less than as many
    independent ones: the bootstrap's interval is widened, in the logarithm and about the ratio, as
    of `n (1 - r) / (1 + r)` rounds, `r` being the autocorrelation.

    Args:
        samples_ms: one latency a round.
        base_ms: those of the candidate that is divided by, of the same rounds.
        seed: of the resampling; the same gives the same interval.
        resamples: of the rounds, with replacement.
        confidence: that the interval holds the ratio, above 0 and below 1.

    Raises:
        ValueError: if the rounds differ in number, are none, or take no time.

    Source: percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap (1993),
        chapter 13; effective sample size of a first-order autoregression, Bayley and Hammersley,
        The Effective Number of Independent Observations in an Autocorrelated Time Series (1946).
    """
    ours, theirs = np.asarray(samples_ms, float), np.asarray(base_ms, float)
    if ours.shape != theirs.shape or not ours.size:
        raise ValueError(
            f"ratio: expected as many rounds of both and at least one, got {ours.size} and "
            f"{theirs.size}"
        )
    if min(ours.min(), theirs.min()) <= 0:
        raise ValueError("ratio: expected latencies above 0 ms")
    ratios = np.log(ours / theirs)
    rng = np.random.default_rng(seed)
    step = max(1, _MOST_VALUES // len(ratios))
    medians = np.concatenate([
        np.median(rng.choice(ratios, (min(step, resamples - start), len(ratios))), axis=1)
        for start in range(0, resamples, step)
    ])  # fmt: skip
    tail = (1 - confidence) / 2
    middle, bounds = np.median(ratios), np.quantile(medians, (tail, 1 - tail))
    shared = _autocorrelate(ratios)
    widening = np.sqrt((1 + shared) / (1 - shared))
    ratio, low, high = np.exp([middle, *(middle + (bounds - middle) * widening)])
    return RatioInterval(float(ratio), float(low), float(high), len(ratios), confidence, shared)


def _autocorrelate(series: NDArray[np.float64]) -> float:
    """Return the correlation of neighbours, between 0 and 0.9; of few it is estimated too low."""
    deviations = series - series.mean()
    power = float(deviations @ deviations)
    if len(series) < FEWEST_ROUNDS or power == 0:
        return 0.0
    found = float(deviations[1:] @ deviations[:-1]) / power + 1 / len(series)
    return min(max(found, 0.0), _LARGEST_CORRELATION)
