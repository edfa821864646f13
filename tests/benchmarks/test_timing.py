"""Interleaved timing: order and statistics, never speed."""

import pytest

from benchmarks.timing import summarise, time_interleaved


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    timed = time_interleaved(
        {name: lambda name=name: calls.append(name) for name in "AB"},
        rounds=3, warm_up_seconds=0, progress=False,
    )  # fmt: skip
    assert calls == ["A", "B", *["A", "B"] * 3]
    assert {name: summary.calls for name, summary in timed.items()} == {"A": 3, "B": 3}


def test_statistics_by_hand() -> None:
    summary = summarise([float(value) for value in range(1, 102)])
    assert (summary.min_ms, summary.p50_ms, summary.p90_ms, summary.max_ms) == (1, 51, 91, 101)
    assert summary.mean_ms == 51
    assert (summary.p95_ms, summary.p99_ms) == (96, 100)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="expected at least one sample, got none"):
        summarise([])
