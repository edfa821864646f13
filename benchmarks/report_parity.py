"""What the report shows of one result of `benchmarks.parity`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.parity_table import SCHEMA
from benchmarks.report_plots import plot_layers
from benchmarks.report_tables import Table, code, figure, make_table
from benchmarks.result_files import read_result

_CLASSES_SHOWN, _MOVES_SHOWN, _LAYERS_SHOWN = 25, 10, 8
Result = Mapping[str, Any]


def read_parity(path: Path) -> dict[str, Any]:
    """Return a result of `benchmarks.parity`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no result of this schema version.
    """
    return read_result(path, "benchmarks.parity", SCHEMA)


def describe_parity(result: Result) -> dict[str, Any]:
    """Return the block of one result: tables, the layers' errors, notes.

    Raises:
        KeyError: if the result lacks what every result has.
    """
    data = result["data"]
    tables = [
        make_table(
            f"{data['source']}, {data['size']}, against {result['reference']}; 95 % "
            "intervals over images",
            ("Artifact", "Target", "Pixels equal", "mIoU", "Change of mIoU"),
            [
                (Path(a["artifact"]).name, a["target"],
                 figure(a["pixel_agreement"], ".5f", a["pixel_agreement_interval"]),
                 figure(a["miou"], ".4f"),
                 figure(a["miou_delta"], "+z.4f", a["miou_delta_interval"]))
                for a in result["artifacts"]
            ],
        ),
        _table_stability(result),
        *(table for a in result["artifacts"] for table in _tables_artifact(a)),
    ]  # fmt: skip
    return {
        "tables": [table for table in tables if table],
        "bisect": [_describe_bisect(entry) for entry in result.get("bisect", ())],
        "notes": list(result.get("notes", ())),
        "command": result.get("command", ""),
        "entries": [
            {
                "folder": Path(a["artifact"]).name,
                "target": a["target"],
                "pixel_agreement": a["pixel_agreement"],
                "miou_delta": a["miou_delta"] or 0.0,
            }
            for a in result["artifacts"]
        ],
    }


def _tables_artifact(entry: Result) -> Iterator[Table | None]:
    """Yield the tables of one artifact on one target; classes that changed most come first."""
    title = f"{Path(entry['artifact']).name} on {entry['target']}"
    classes = entry["classes"]
    shown = sorted(classes, key=lambda row: -abs(row["iou_delta"] or 0))[:_CLASSES_SHOWN]
    rest = len(classes) - len(shown)
    of = f"; {rest} that change less are left out" if rest else ""
    yield make_table(
        f"By class: {title}{of}",
        ("Class", "IoU, reference", "IoU", "Change"),
        [
            (row["name"], figure(row["iou_reference"], ".4f"), figure(row["iou"], ".4f"),
             figure(row["iou_delta"], "+z.4f", row["iou_delta_interval"]))
            for row in shown
        ],
    )  # fmt: skip
    changed = entry.get("changed")
    if not changed or not changed["pixels"]:
        return
    pixels = f"{changed['pixels']:,} pixels, {changed['share']:.3%} of all"
    yield make_table(
        f"What changed pixels were and became: {title}; {pixels}",
        ("Reference", "Artifact", "Pixels", "Share of the changed"),
        [
            (move["from"], move["to"], figure(move["pixels"], ",d"), figure(move["share"], ".1%"))
            for move in changed["moves"][:_MOVES_SHOWN]
        ],
    )
    yield make_table(
        f"How near to the reference's boundaries changed pixels lie: {title}",
        ("Within", "Of the changed", "Of all pixels"),
        [
            (f"{row['within_pixels']} px", figure(row["changed_share"], ".1%"),
             figure(row["all_share"], ".1%"))
            for row in changed["boundary_distance"]
        ],
    )  # fmt: skip


def _table_stability(result: Result) -> Table | None:
    return make_table(
        "Build to build: artifacts that one command made",
        ("Artifacts", "Target", "Files that differ", "Labels that differ"),
        [
            (" and ".join(Path(name).name for name in pair["artifacts"]), pair["target"],
             ", ".join(pair["files_different"]) or "none", figure(pair["pixels_different"], ",d"))
            for pair in result.get("stability", ())
        ],
    )  # fmt: skip


def _describe_bisect(entry: Result) -> dict[str, Any]:
    """Return where a graph leaves its FP32 form: a sentence, the layers' plot, the largest."""
    first, limit, layers = entry["first"], entry["threshold"], entry["layers"]
    text = f"No layer of {len(layers)} is off by more than {limit:.1e} (relative RMS)."
    if first:
        error = _show_error(first["relative_rms"])
        text = (f"The first layer of {len(layers)} that is off by more than {limit:.1e} (relative "
                f"RMS) is {first['name']}, a {first['op_type']}: {error}.")  # fmt: skip
    worst = sorted(layers, key=_rank_error, reverse=True)[:_LAYERS_SHOWN]
    name, images = Path(entry["artifact"]).name, entry["images"]
    errors = [layer["relative_rms"] for layer in layers]
    names = [layer["name"] for layer in layers]
    return {
        "title": f"First diverging layer: {name}, {entry['precision']} on {entry['target']}, "
        f"{images} image{'' if images == 1 else 's'}",
        "text": text,
        "plot": plot_layers(names, errors, limit, first and names.index(first["name"])),
        "table": make_table(
            f"Layers that are off most: {name}",
            ("Layer", "Operator", "Relative RMS"),
            [(code(layer["name"]), layer["op_type"], _show_error(layer["relative_rms"]))
             for layer in worst],
        ),
    }  # fmt: skip


def _rank_error(layer: Result) -> float:
    error = layer["relative_rms"]
    return float("inf") if error is None else float(error)


def _show_error(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.1e}"
