"""The report of `benchmarks.parity` as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
_MOVES_SHOWN = 5


def format_report(report: Mapping[str, Any]) -> str:
    """Return the tables of a report, as `benchmarks.parity` describes it."""
    data = report["data"]
    lines = [f"reference: {report['reference']}; {data['source']}, {data['size']}"]
    lines += [f"note: {note}" for note in report["notes"]]
    lines += ["", f"{'artifact, target':36}{'labels equal':>13}{'mIoU ref.':>11}{'mIoU':>8}"
              f"{'delta':>9}  95 % interval"]  # fmt: skip
    for entry in report["artifacts"]:
        name = f"{Path(entry['artifact']).name}, {entry['target']}"
        lines.append(
            f"{name:36}{entry['pixel_agreement']:13.5f}{_show(entry['miou_reference'], 11)}"
            f"{_show(entry['miou'], 8)}{_show(entry['miou_delta'], 9, '+')}"
            f"  {_show_interval(entry['miou_delta_interval'])}"
        )
    for entry in report["artifacts"]:
        lines += ["", *_format_artifact(entry)]
    for pair in report["stability"]:
        lines += ["", _format_pair(pair)]
    for entry in report.get("bisect", ()):
        lines += ["", _format_bisect(entry)]
    return "\n".join(lines)


def _format_artifact(entry: Mapping[str, Any]) -> list[str]:
    lines = [f"{entry['artifact']} ({entry['precision']}) on {entry['target']}"]
    for row in entry["classes"]:
        lines.append(
            f"  {row['name']:24}{_show(row['iou_reference'], 9)}{_show(row['iou'], 9)}"
            f"{_show(row['iou_delta'], 9, '+')}  {_show_interval(row['iou_delta_interval'])}"
        )
    changed = entry["changed"]
    lines.append(f"  {changed['pixels']} pixels changed ({changed['share']:.3%})")
    lines += [
        f"    {move['share']:6.1%} {move['from']} -> {move['to']}"
        for move in changed["moves"][:_MOVES_SHOWN]
    ]
    if changed["pixels"]:
        near = (
            f"{row['within_pixels']} px {row['changed_share']:.1%} ({row['all_share']:.1%})"
            for row in changed["boundary_distance"]
        )
        lines.append(f"  of them (of all pixels) within, of a boundary: {', '.join(near)}")
    return lines


def _format_pair(pair: Mapping[str, Any]) -> str:
    names = " and ".join(pair["artifacts"])
    different: Sequence[str] = pair["files_different"]
    files = f"{', '.join(different)} differ" if different else "all shared files are equal"
    return f"one command made {names}: {files}; {pair['pixels_different']} labels differ"


def _format_bisect(entry: Mapping[str, Any]) -> str:
    first = entry["first"]
    subject = f"{entry['artifact']} ({entry['precision']} on {entry['target']})"
    limit = f"{entry['threshold']:.1e} relative RMS"
    if first is None:
        return f"{subject}: no layer of {len(entry['layers'])} is off by more than {limit}"
    rms = "no finite number" if first["relative_rms"] is None else f"{first['relative_rms']:.1e}"
    return f"{subject}: first off by more than {limit}: {first['name']} ({rms})"


def _show(value: float | None, width: int, sign: str = "") -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{sign}{width}.4f}"


def _show_interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:+.4f}, {interval[1]:+.4f}]"
