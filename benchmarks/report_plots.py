"""Coordinates of the report's plots; the template draws them as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

import numpy as np

WIDTH, LEFT, ROW, TOP = 640, 8, 46, 8  # SVG units
_BINS = 80
_MOST_TICKS = 6
_LAYERS_HEIGHT, _LAYERS_LEFT, _LAYERS_BOTTOM = 240, 64, 30
_SMALLEST = 1e-9  # what an error of 0 is drawn at: it has no logarithm


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


def plot_layers(
    names: Sequence[str], errors: Sequence[float | None], threshold: float, first: int | None
) -> dict[str, Any] | None:
    """Return one dot a layer over the graph's order, logarithmic; None without layers.

    Args:
        names: of the layers.
        errors: relative RMS; None, no finite number, is drawn at the top.
        threshold: drawn as a line.
        first: which layer is marked, None for none.
    """
    if not errors:
        return None
    positive = [error for error in errors if error] + [threshold]
    low = max(floor(log10(min(positive))), round(log10(_SMALLEST)))
    high = ceil(log10(max(positive)))
    span, bottom = max(high - low, 1), _LAYERS_HEIGHT - _LAYERS_BOTTOM
    step = (WIDTH - _LAYERS_LEFT - LEFT) / max(len(errors) - 1, 1)

    def place(error: float | None) -> float:
        level = high if error is None else log10(max(error, 10.0**low))
        return round(bottom - (level - low) / span * (bottom - TOP), 1)

    dots = [(round(_LAYERS_LEFT + index * step, 1), place(error))
            for index, error in enumerate(errors)]  # fmt: skip
    decades = range(low, high + 1, ceil(span / _MOST_TICKS))
    largest = max(range(len(errors)), key=lambda index: -dots[index][1])
    return {
        "width": WIDTH,
        "height": _LAYERS_HEIGHT,
        "left": _LAYERS_LEFT,
        "bottom": bottom,
        "dots": "".join(f"M{x} {y}h0" for x, y in dots),
        "threshold": place(threshold),
        "first": None if first is None else {"x": dots[first][0], "y": dots[first][1]},
        "ticks": [{"y": place(10.0**decade), "text": f"1e{decade}"} for decade in decades],
        "summary": f"{len(errors)} layers; the largest is that of {names[largest]}",
    }
