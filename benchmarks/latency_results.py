"""Results of `benchmarks.latency` as files: written, read back, and two runs compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.intervals import RatioInterval
from segvit.atomic import write_bytes

SCHEMA = 1
Result = dict[str, Any]


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON, replacing an older file only when complete."""
    write_bytes(path, f"{json.dumps(result, indent=2, allow_nan=False)}\n".encode())


def read_result(path: Path) -> Result:
    """Return an earlier result.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no result of this schema version.
    """
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is no result: {error}; measure again with --out") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"'{path}' is a result of another version: expected schema {SCHEMA}, got {schema!r}; "
            "measure again with this version: python -m benchmarks.latency --out"
        )
    return dict(result)


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
