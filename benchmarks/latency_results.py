"""Results of `benchmarks.latency`: read back, and two runs compared."""

from __future__ import annotations

from pathlib import Path

from benchmarks.intervals import RatioInterval
from benchmarks.result_files import Result, read_result

SCHEMA = 1


def read_latency(path: Path) -> Result:
    """Return an earlier result; see `read_result`."""
    return read_result(path, "benchmarks.latency", SCHEMA)


def compare_runs(now: Result, then: Result, path: Path) -> Result:
    """Return, of each ratio that both runs have, whether their intervals overlap.

    Raises:
        ValueError: if the earlier run is of another model, size, batch or number of threads.
    """
    for key in ("subject", "batch", "threads"):
        if now[key] != then[key]:
            raise ValueError(
                f"'{path}' cannot be compared with this run: expected {key} {now[key]}, got "
                f"{then[key]}"
            )
    rows = {}
    for name, others in now["ratios"].items():
        for other, interval in others.items():
            earlier = then["ratios"].get(name, {}).get(other)
            if earlier is not None:
                overlap = RatioInterval(**interval).overlaps(RatioInterval(**earlier))
                rows[f"{name} / {other}"] = {"then": earlier, "overlap": overlap}
    return {"file": path.name, "machine": then["machine"], "ratios": rows}
