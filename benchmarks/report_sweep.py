"""What the report shows of a result of `benchmarks.sweep`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report_tables import Cell, Table, figure, make_table

SWEEP_SCHEMA = 2


def read_sweep(path: Path) -> dict[str, Any]:
    """Return the table and the failures of a sweep.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no sweep of this schema version, or lacks what every one has.
    """
    try:
        sweep = json.loads(path.read_bytes())
        schema = sweep["schema"]
        if schema != SWEEP_SCHEMA:
            raise ValueError(f"expected schema {SWEEP_SCHEMA}, got {schema!r}")
        setup = sweep["setup"]
        return {
            "text": f"{sweep['machine']['processor']}; one image a call, {setup['rounds']} rounds, "
            f"{setup['threads']} threads; parity on {setup['num_images']} images.",
            "table": _table_sweep(sweep),
            "failed": [
                f"{row['model']} {row['precision']} {row['size']} failed: {row['error']}"
                for row in sweep["rows"]
                if row["error"]
            ],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' is no sweep to show: {error}; run python -m benchmarks.sweep --out {path}"
        ) from error


def _table_sweep(sweep: Mapping[str, Any]) -> Table | None:
    rows = [row for row in sweep["rows"] if not row["error"]]
    gpus = sweep["setup"]["gpu"]
    targets = list(dict.fromkeys(target for row in rows for target in row["latency"]))
    return make_table(
        "Models by precisions and sizes; estimates are at published peaks",
        ("Model", "Precision", "Size", "Build, s", "Build's peak, GiB", "ONNX, MB", "Engine, MB",
         "Kernels", "Moved, MB", *(f"Estimated on {gpu}, ms" for gpu in gpus),
         *(f"Median on {target}, ms" for target in targets),
         "Pixels equal", "Score error"),
        [_make_row(row, gpus, targets) for row in rows],
    )  # fmt: skip


def _make_row(
    row: Mapping[str, Any], gpus: list[str], targets: list[str]
) -> tuple[Cell | str | None, ...]:
    engine = row["engines"][0] if row["engines"] else {}
    parity = row["parity"] or {"pixel_agreement": None, "details": {}}
    model = f"{row['model']}{' (random weights)' if row['random_weights'] else ''}"
    return (
        model,
        row["precision"],
        row["size"],
        figure(row["build_seconds"], ".0f"),
        figure(row["peak_gib"], ".1f"),
        figure(row["onnx_mb"], ".1f"),
        figure(engine.get("engine_mb"), ".1f"),
        figure(engine.get("kernels"), "d"),
        figure(engine.get("traffic_mb"), ".0f"),
        *(figure(engine.get("estimated_ms", {}).get(gpu), ".3f") for gpu in gpus),
        *(figure(row["latency"].get(target, {}).get("p50_ms"), ".1f") for target in targets),
        figure(parity["pixel_agreement"], ".4f"),
        figure(parity["details"].get("score_rms"), ".1e"),
    )
