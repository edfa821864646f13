"""A search's frontier as a table, a CSV file and a plot."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.budget import Frontier, Point, Speed, kind_of
from segvit.atomic import write_bytes

TABLE_NAME = "frontier.csv"
PICTURE_NAME = "frontier.png"
_WIDTH, _HEIGHT, _DPI = 7.2, 4.2, 120  # inches a panel
_CHOSEN, _HOLDING, _FAILING, _FLOAT = "#1b7837", "#4393c3", "#d6604d", "#404040"


def write_frontier(frontier: Frontier, budget_points: float, folder: Path) -> None:
    """Write the table and the plot into a folder."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["quantised", "kept_float", "miou_drop_points", "label_agreement",
                     "score_rms", "estimated_ms", "measured_ratio", "kept"])  # fmt: skip
    for point in _in_order(frontier):
        figures = asdict(point)
        writer.writerow(
            [point.quantised, len(point.kept)]
            + [figures[name] for name in ("miou_drop_points", "label_agreement", "score_rms")]
            + [point.speed.estimated_ms, point.speed.measured_ratio, " ".join(point.kept)]
        )
    write_bytes(folder / TABLE_NAME, text.getvalue().encode())
    write_bytes(folder / PICTURE_NAME, draw_frontier(frontier, budget_points))


def format_frontier(frontier: Frontier, budget_points: float) -> str:
    """Return the table that a terminal shows; `*` marks the point that is built."""
    chosen = frontier.choose(budget_points)
    lines = [f"  {'quantised':>9}{'mIoU drop':>11}{'labels equal':>14}"
             f"{'estimate':>11}{'measured':>10}  kept float"]  # fmt: skip
    for point in _in_order(frontier):
        mark = "*" if point == chosen else " " if frontier.holds(point, budget_points) else "x"
        drop = f"{round(point.miou_drop_points, 3) + 0.0:.3f}"  # no -0.000
        lines.append(
            f"{mark} {point.quantised:9}{drop:>11}{point.label_agreement:14.5f}"
            f"{_format_speed(point.speed)}  {_describe_kept(point)}"
        )
    if frontier.float_speed is not None:
        lines.append(
            f"  {'0':>9}{'0.000':>11}{1.0:14.5f}{_format_speed(frontier.float_speed)}  all"
        )
    return "\n".join(lines)


def draw_frontier(frontier: Frontier, budget_points: float) -> bytes:
    """Return a PNG: mIoU drop against estimated, and where there is one measured, speed."""
    chosen = frontier.choose(budget_points)
    speeds = [point.speed for point in frontier.points]
    panels = [
        (name, label)
        for name, label in (
            ("estimated_ms", f"estimated ms ({frontier.setup.speed.split(' + ')[0]})"),
            ("measured_ratio", "latency on ONNX Runtime's CPU provider, of the float graph's"),
        )
        if any(getattr(speed, name) is not None for speed in speeds)
    ]
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(panels)), dpi=_DPI, layout="constrained")
    for index, (name, label) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        _draw_panel(axes, frontier, budget_points, chosen, name)
        axes.set_xlabel(label)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(
    axes: Axes, frontier: Frontier, budget_points: float, chosen: Point | None, name: str
) -> None:
    for point in frontier.points:
        value = getattr(point.speed, name)
        if value is None:
            continue
        holds = frontier.holds(point, budget_points)
        colour = _CHOSEN if point == chosen else _HOLDING if holds else _FAILING
        axes.plot(value, point.miou_drop_points, "o", color=colour, markersize=8)
        axes.annotate(
            str(point.quantised), (value, point.miou_drop_points), xytext=(6, 5),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    value = getattr(frontier.float_speed, name, None)
    if value is not None:
        axes.plot(value, 0.0, "s", color=_FLOAT, markersize=8)
        axes.annotate("float", (value, 0.0), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.axhline(budget_points, color=_FAILING, linewidth=1, linestyle="--")
    axes.set_ylabel("mIoU drop, points")
    axes.invert_yaxis()  # better is up
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    scheme = frontier.setup.scheme.upper()
    axes.set_title(f"{scheme}: products quantised (numbers), budget {budget_points:g} (dashed)",
                   fontsize=10)  # fmt: skip


def _in_order(frontier: Frontier) -> list[Point]:
    return sorted(frontier.points, key=lambda point: len(point.kept))


def _format_speed(speed: Speed) -> str:
    estimate = "" if speed.estimated_ms is None else f"{speed.estimated_ms:.3f} ms"
    ratio = "" if speed.measured_ratio is None else f"x {speed.measured_ratio:.2f}"
    return f"{estimate:>11}{ratio:>10}"


def _describe_kept(point: Point) -> str:
    """Return how many of each kind stay float."""
    kinds: dict[str, int] = {}
    for name in point.kept:
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
