"""Coordinates of the report's plots; the template draws them as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH, LEFT, ROW, TOP = 640, 8, 46, 8  # SVG units
_BINS = 80
_MOST_TICKS = 6


def plot_latencies(samples_ms: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """Return a histogram a candidate over one axis from 0 ms, None without samples.

    The axis ends at the largest p99: the few calls beyond are counted, not drawn.
    """
    rows = {name: np.asarray(values, float) for name, values in samples_ms.items() if values}
    if not rows:
        return None
    limit = max(float(np.percentile(values, 99)) for values in rows.values()) * 1.02
    scale = (WIDTH - 2 * LEFT) / limit

    def place(value: float) -> float:
        return round(LEFT + min(value, limit) * scale, 1)

    drawn: list[dict[str, Any]] = []
    for index, (name, values) in enumerate(rows.items()):
        counts, edges = np.histogram(values, _BINS, (0.0, limit))
        base = TOP + (index + 1) * ROW
        heights = counts / max(1, counts.max()) * (ROW - 22)
        steps = [f"M{LEFT} {base}"]
        for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
            y = round(base - float(height), 1)
            steps.append(f"L{place(left)} {y}L{place(right)} {y}")
        p50, p95 = (float(v) for v in np.percentile(values, (50, 95)))
        drawn.append({
            "name": name,
            "base": base,
            "path": "".join([*steps, f"L{WIDTH - LEFT} {base}Z"]),
            "p50": {"x": place(p50), "ms": p50},
            "p95": {"x": place(p95), "ms": p95},
            "beyond": int((values > limit).sum()),
        })  # fmt: skip
    step = choose_step(limit)
    ticks = [step * tick for tick in range(int(limit / step) + 1)]
    return {
        "width": WIDTH,
        "height": TOP + len(rows) * ROW + 24,
        "rows": drawn,
        "ticks": [{"x": place(tick), "ms": tick} for tick in ticks],
        "summary": "; ".join(
            f"{row['name']}: median {row['p50']['ms']:.2f} ms, p95 {row['p95']['ms']:.2f} ms"
            for row in drawn
        ),
    }


def choose_step(limit: float) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts `limit` into at most six."""
    power = 10.0 ** np.floor(np.log10(limit / _MOST_TICKS))
    steps = (factor * power for factor in (1, 2, 5, 10))
    return float(next(step for step in steps if limit / step <= _MOST_TICKS))
