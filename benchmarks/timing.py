"""Interleaved timing: candidates take turns, so that a noisy machine favours none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class LatencySummary:
    """Latencies of one candidate, in milliseconds a call."""

    calls: int
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up_seconds: float,
    progress: bool = True,
) -> dict[str, LatencySummary]:
    """Return the latencies of candidates called in turn: A B C, A B C and so on.

    Args:
        candidates: what to call, by name.
        rounds: calls of each.
        warm_up_seconds: how long each is called before, untimed; at least once.
        progress: show a bar.
    """
    for call in candidates.values():
        started = time.perf_counter()
        call()
        while time.perf_counter() - started < warm_up_seconds:
            call()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in tqdm(range(rounds), desc="latency", unit="round", disable=not progress, leave=False):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            samples[name].append((time.perf_counter() - started) * 1e3)
    return {name: summarise(values) for name, values in samples.items()}


def summarise(samples_ms: list[float]) -> LatencySummary:
    """Return the summary of latencies in milliseconds.

    Raises:
        ValueError: if there are none.
    """
    if not samples_ms:
        raise ValueError("latencies: expected at least one sample, got none")
    p50, p90, p95, p99 = (float(v) for v in np.percentile(samples_ms, (50, 90, 95, 99)))
    return LatencySummary(
        calls=len(samples_ms),
        min_ms=min(samples_ms),
        mean_ms=float(np.mean(samples_ms)),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(samples_ms),
    )
