"""What makes a run's figures doubtful, in words: kept with them and shown below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.intervals import FEWEST_ROUNDS
from benchmarks.timing import LatencySummary

# trtexec says so from 1 % of a GPU's compute time on; calls of a CPU vary more by themselves.
MOST_VARIATION = 0.05
MOST_OTHER_CORES = 0.1


def find_latency_caveats(timed: Mapping[str, LatencySummary]) -> list[str]:
    """Return which latencies vary much, and whether there are too few."""
    caveats = [
        f"{name}: unstable, the coefficient of variation is {summary.cv:.0%} (over "
        f"{MOST_VARIATION:.0%}); trust the ratios and their intervals, not single latencies"
        for name, summary in timed.items()
        if summary.cv > MOST_VARIATION
    ]
    rounds = min((summary.calls for summary in timed.values()), default=0)
    if rounds < FEWEST_ROUNDS:
        caveats.append(
            f"{rounds} rounds are too few for an interval: expected {FEWEST_ROUNDS} at least, "
            "raise --rounds or --duration"
        )
    return caveats


def find_load_caveats(load: Mapping[str, Any], cores: int, threads: int) -> list[str]:
    """Return what else used the CPU, from `LoadWatch.report`."""
    caveats = []
    for when, others in (
        ("before", load["other_cores_before"]),
        ("during", load["during"]["other_cores"]),
    ):
        if others > MOST_OTHER_CORES:
            caveats.append(
                f"other processes kept {others:.2f} of {cores} cores busy {when} the run"
            )
    if load["during"]["stolen_cores"] > MOST_OTHER_CORES:
        stolen = load["during"]["stolen_cores"]
        caveats.append(f"the hypervisor gave {stolen:.2f} of {cores} cores to other machines")
    if load["throttled"]:
        caveats.append(f"cores were slowed down for heat {load['throttled']} times")
    if threads > cores:
        caveats.append(f"{threads} threads share {cores} cores")
    return caveats


def find_label_caveats(
    agreement: Mapping[str, float], gates: Mapping[str, float | None]
) -> list[str]:
    """Return which candidates do other work: labels below the gate of their precision.

    Args:
        agreement: share of labels equal to `golden.npz`, by name.
        gates: the least expected, by name; None where random weights make labels near-ties.
    """
    caveats = []
    for name, share in agreement.items():
        gate = gates[name]
        if gate is not None and share < gate:
            caveats.append(
                f"{name}: {share:.5f} of labels as in golden.npz, the gate of its precision is "
                f"{gate}; its latency is not that of the same work"
            )
    return caveats
