"""Interleaved timing: candidates take turns, so that a noisy machine favours none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

FEWEST_ROUNDS = 10  # of a run that is bounded by time, as trtexec has it
Clock = Callable[[], float]  # seconds
Samples = dict[str, list[float]]  # milliseconds a call, one a round, by candidate


@dataclass(frozen=True)
class LatencySummary:
    """Latencies of one candidate, in milliseconds a call; `cv` is deviation over mean."""

    calls: int
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    cv: float


@dataclass(frozen=True)
class Schedule:
    """How long to measure: `rounds` of each, or as many as start within `duration_s`, if given.

    `warm_up_s` is how long each candidate is called before, untimed; at least once. `seed` is that
    of the order within each round. `settle_s` is slept before each timed call: threads that
    libraries keep spinning after a call (OpenMP, ONNX Runtime) would take cores from the next one.
    """

    rounds: int = 50
    duration_s: float | None = None
    warm_up_s: float = 0.5
    seed: int = 0
    settle_s: float = 0.0


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up_seconds: float,
    progress: bool = True,
) -> dict[str, LatencySummary]:
    """Return the summaries of `measure_rounds`, of a number of rounds."""
    schedule = Schedule(rounds=rounds, warm_up_s=warm_up_seconds)
    samples = measure_rounds(candidates, schedule, progress)
    return {name: summarise(values) for name, values in samples.items()}


def measure_rounds(
    candidates: Mapping[str, Callable[[], object]],
    schedule: Schedule,
    progress: bool = True,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Return the latencies of candidates, each called once a round: A B C, B A C and so on.

    The order is drawn anew for each round, so that none always follows the same other one, whose
    leavings in the caches would be its own.

    Args:
        candidates: what to call, by name.
        schedule: for how long.
        progress: show a bar.
        clock: what tells the time, in seconds.
    """
    for call in candidates.values():
        started = clock()
        call()
        while clock() - started < schedule.warm_up_s:
            call()
    rng = np.random.default_rng(schedule.seed)
    names, samples = list(candidates), {name: list[float]() for name in candidates}
    total = None if schedule.duration_s is not None else schedule.rounds
    with tqdm(total=total, desc="latency", unit="round", disable=not progress, leave=False) as bar:
        for _ in _count_rounds(schedule, clock):
            for index in rng.permutation(len(names)):
                name = names[index]
                if schedule.settle_s:
                    time.sleep(schedule.settle_s)
                started = clock()
                candidates[name]()
                samples[name].append((clock() - started) * 1e3)
            bar.update()
    return samples


def _count_rounds(schedule: Schedule, clock: Clock) -> Iterator[int]:
    if schedule.duration_s is None:
        yield from range(schedule.rounds)
        return
    started, count = clock(), 0
    while count < FEWEST_ROUNDS or clock() - started < schedule.duration_s:
        yield count
        count += 1


def summarise(samples_ms: list[float]) -> LatencySummary:
    """Return the summary of latencies in milliseconds.

    Raises:
        ValueError: if there are none.
    """
    if not samples_ms:
        raise ValueError("latencies: expected at least one sample, got none")
    p50, p90, p95, p99 = (float(v) for v in np.percentile(samples_ms, (50, 90, 95, 99)))
    mean = float(np.mean(samples_ms))
    return LatencySummary(
        calls=len(samples_ms),
        min_ms=min(samples_ms),
        mean_ms=mean,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(samples_ms),
        cv=float(np.std(samples_ms)) / mean if mean else 0.0,
    )
