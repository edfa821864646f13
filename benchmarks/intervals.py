"""Ratios of latencies with intervals, from rounds in which the candidates took turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_ROUNDS = 10
_MOST_VALUES = 4_000_000  # resampled at once: 32 MB


@dataclass(frozen=True)
class RatioInterval:
    """How much longer one candidate takes than another, and what bounds it.

    `ratio` is the median over rounds of one latency over the other of the same round, so that
    what slows a whole round down cancels; `low` and `high` bound it with `confidence`.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    confidence: float = CONFIDENCE

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

    Args:
        samples_ms: one latency a round.
        base_ms: those of the candidate that is divided by, of the same rounds.
        seed: of the resampling; the same gives the same interval.
        resamples: of the rounds, with replacement.
        confidence: that the interval holds the ratio, above 0 and below 1.

    Raises:
        ValueError: if the rounds differ in number, are none, or take no time.

    Source: percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap (1993),
        chapter 13.
    """
    ours, theirs = np.asarray(samples_ms, float), np.asarray(base_ms, float)
    if ours.shape != theirs.shape or not ours.size:
        raise ValueError(
            f"ratio: expected as many rounds of both and at least one, got {ours.size} and "
            f"{theirs.size}"
        )
    if min(ours.min(), theirs.min()) <= 0:
        raise ValueError("ratio: expected latencies above 0 ms")
    ratios = ours / theirs
    rng = np.random.default_rng(seed)
    step = max(1, _MOST_VALUES // len(ratios))
    medians = np.concatenate([
        np.median(rng.choice(ratios, (min(step, resamples - start), len(ratios))), axis=1)
        for start in range(0, resamples, step)
    ])  # fmt: skip
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return RatioInterval(float(np.median(ratios)), float(low), float(high), len(ratios), confidence)
