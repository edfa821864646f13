"""Interleaved timing: order, statistics and what it finds, by a clock of the test's own."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.intervals import compare_paired
from benchmarks.timing import FEWEST_ROUNDS, Samples, Schedule, measure_rounds, summarise
from benchmarks.timing import time_interleaved as time_summaries


class FakeMachine:
    """A clock that only calls move on, at a speed that drifts and jumps as a shared machine's."""

    def __init__(self, seed: int) -> None:
        self.now, self._rng = 0.0, np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def make_call(self, milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            drift = 1 + 0.4 * np.sin(self.now / 3)  # others come and go
            jump = 3 if self._rng.random() < 0.03 else 1  # something else got the core
            noise = self._rng.lognormal(0, 0.04)
            self.now += milliseconds / 1e3 * drift * jump * noise

        return call


def _measure(seed: int, ours_ms: float, theirs_ms: float, rounds: int = 200) -> Samples:
    machine = FakeMachine(seed)
    candidates = {"ours": machine.make_call(ours_ms), "theirs": machine.make_call(theirs_ms)}
    schedule = Schedule(rounds=rounds, warm_up_s=0.1, seed=seed)
    return measure_rounds(candidates, schedule, progress=False, clock=machine.clock)


def test_a_planted_slowdown_is_found() -> None:
    for seed in range(20):
        samples = _measure(seed, 10.5, 10.0)
        found = compare_paired(samples["ours"], samples["theirs"])
        assert found.differs, seed
        assert found.low > 1
        assert 1.02 < found.ratio < 1.08


def test_none_is_found_where_there_is_none() -> None:
    """An interval of 95 % leaves out the truth in one run of twenty; so do these, about."""
    false_alarms = 0
    for seed in range(100):
        samples = _measure(seed, 10.0, 10.0, rounds=100)
        found = compare_paired(samples["ours"], samples["theirs"])
        false_alarms += found.differs
        assert 0.97 < found.ratio < 1.03
    assert false_alarms <= 10  # binomial: more than 10 of 100 at 5 % has probability 0.011


def test_drift_is_shared_by_all() -> None:
    """A whole run of one candidate after the other would see the drift as a difference."""
    machine = FakeMachine(0)
    blocks = {}
    for name in "AB":
        schedule = Schedule(rounds=400, warm_up_s=0)
        call = {name: machine.make_call(10.0)}
        blocks |= measure_rounds(call, schedule, progress=False, clock=machine.clock)
    apart = np.median(blocks["A"]) / np.median(blocks["B"])
    samples = _measure(0, 10.0, 10.0, rounds=400)
    together = compare_paired(samples["ours"], samples["theirs"])
    assert abs(apart - 1) > 0.05
    assert abs(together.ratio - 1) < 0.02


def test_candidates_take_turns_in_any_order() -> None:
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ABC"}
    timed = time_summaries(candidates, rounds=60, warm_up_seconds=0, progress=False)
    assert calls[:3] == ["A", "B", "C"]  # warm-up
    rounds = ["".join(calls[start : start + 3]) for start in range(3, len(calls), 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"ABC"}
    assert len(set(rounds)) == 6
    assert {name: summary.calls for name, summary in timed.items()} == dict.fromkeys("ABC", 60)
    again, calls = calls, []
    time_summaries(candidates, rounds=60, warm_up_seconds=0, progress=False)
    assert calls == again  # seeded


def test_warm_up_and_duration_are_by_time() -> None:
    machine = FakeMachine(0)
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        machine.now += 0.25

    schedule = Schedule(duration_s=5.0, warm_up_s=1.0)
    samples = measure_rounds({"A": call}, schedule, progress=False, clock=machine.clock)
    assert count == 4 + 20
    assert samples["A"] == [250.0] * 20
    schedule = Schedule(duration_s=0.5, warm_up_s=0)
    short = measure_rounds({"A": call}, schedule, progress=False, clock=machine.clock)
    assert len(short["A"]) == FEWEST_ROUNDS


def test_statistics_by_hand() -> None:
    summary = summarise([float(value) for value in range(1, 102)])
    assert (summary.min_ms, summary.p50_ms, summary.p90_ms, summary.max_ms) == (1, 51, 91, 101)
    assert summary.mean_ms == 51
    assert (summary.p95_ms, summary.p99_ms) == (96, 100)
    assert summarise([1.0, 3.0]).cv == 0.5


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="expected at least one sample, got none"):
        summarise([])
