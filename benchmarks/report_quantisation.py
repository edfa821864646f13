"""What the report shows of quantisation: a search's frontier and what each layer costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report_pictures import draw_sensitivity, encode_file
from benchmarks.report_tables import Table, code, figure, make_table
from calibration.budget import FRONTIER_NAME, Frontier, Point
from calibration.frontier import PICTURE_NAME
from calibration.layer_errors import LayerError
from calibration.strip import format_error
from export.manifest import Manifest, verify_file
from export.manifest_decode import decode

SENSITIVITY_NAME = "sensitivity.json"
_SENSITIVITY_SCHEMA = 1
_LAYERS_SHOWN = 10


def describe_quantisation(
    folder: Path, reports: Path, manifest: Manifest, budget_points: float | None
) -> dict[str, Any] | None:
    """Return the frontier and the sensitivities of an artifact, None where it has neither.

    Args:
        folder: the artifact's.
        reports: where results about it lie.
        manifest: files that it lists are checked against it.
        budget_points: the mIoU drop that was allowed; tells which point was built.

    Raises:
        ManifestError: if a file is not the one the manifest lists.
        ValueError: if one is damaged or of another version.
    """
    frontier, sensitivity = (
        _find(folder, reports, name, manifest) for name in (FRONTIER_NAME, SENSITIVITY_NAME)
    )
    picture = _find(folder, reports, PICTURE_NAME, manifest) if frontier else None
    blocks = []
    if frontier:
        blocks.append(_describe_frontier(Frontier.load(frontier), picture, budget_points))
    if sensitivity:
        blocks.append(_read_sensitivity(sensitivity))
    return {"blocks": blocks} if blocks else None


def _find(folder: Path, reports: Path, name: str, manifest: Manifest) -> Path | None:
    """Return a file of the artifact, checked where it is listed, or one about it."""
    if name in manifest.files:
        return verify_file(folder, name, manifest)
    return next((path for path in (reports / name, folder / name) if path.is_file()), None)


def _describe_frontier(
    frontier: Frontier, picture: Path | None, budget_points: float | None
) -> dict[str, Any]:
    setup = frontier.setup
    chosen = None if budget_points is None else frontier.choose(budget_points)
    budget = "" if budget_points is None else f", budget {budget_points:g} points of mIoU"
    return {
        "text": f"Searched on {setup.images}{budget}; speed: {setup.speed}.",
        "tables": [
            _table_frontier(frontier, chosen),
            _table_layers(frontier.layers, "product"),
        ],
        "pictures": [
            *([(encode_file(picture), "Frontier: mIoU drop against speed",
                "the table above has its figures")] if picture else []),
            *_draw_strip(frontier.layers, setup.scheme, "product"),
        ],
    }  # fmt: skip


def _table_frontier(frontier: Frontier, chosen: Point | None) -> Table | None:
    rows = [
        (f"{point.quantised}{', built' if point == chosen else ''}",
         figure(len(point.kept), "d"),
         figure(point.miou_drop_points, "z.3f"), figure(point.label_agreement, ".5f"),
         figure(point.speed.estimated_ms, ".3f"), figure(point.speed.measured_ratio))
        for point in sorted(frontier.points, key=lambda point: len(point.kept))
    ]  # fmt: skip
    speed = frontier.float_speed
    if speed:
        rows.append(("0, the float graph", None, figure(0.0, ".3f"), figure(1.0, ".5f"),
                     figure(speed.estimated_ms, ".3f"), figure(speed.measured_ratio)))  # fmt: skip
    return make_table(
        "Frontier: mixed precisions that were measured",
        ("Products quantised", "Kept float", "mIoU drop, points", "Labels equal", "Estimated ms",
         "Of the float graph's latency"),
        rows,
    )  # fmt: skip


def _read_sensitivity(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != _SENSITIVITY_SCHEMA:
            raise ValueError(f"expected schema {_SENSITIVITY_SCHEMA}, got {document['schema']}")
        setup, groups = document["setup"], int(document["groups"])
        layers = tuple(decode(LayerError, layer) for layer in document["layers"])
        scheme, unit, images = (str(setup[key]) for key in ("scheme", "by", "images"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' holds no sensitivities: {error}; measure again: "
            "python -m calibration.sensitivity"
        ) from error
    part = "" if len(layers) == groups else f"; {len(layers)} of {groups} measured so far"
    return {
        "text": f"{scheme.upper()}, one {unit} quantised at a time, on {images}{part}.",
        "tables": [_table_layers(layers, unit)],
        "pictures": _draw_strip(layers, scheme, unit),
    }


def _table_layers(layers: Sequence[LayerError], unit: str) -> Table | None:
    worst = sorted(layers, key=lambda layer: -layer.score_rms)
    return make_table(
        f"What costs most when it alone is quantised: {min(len(worst), _LAYERS_SHOWN)} of "
        f"{len(worst)}",
        (unit.capitalize(), "Score error, relative RMS", "Labels equal", "mIoU drop, points"),
        [
            (code(layer.name), figure(layer.score_rms, ".1e"), figure(layer.label_agreement, ".5f"),
             figure(layer.miou_drop_points, "z.3f"))
            for layer in worst[:_LAYERS_SHOWN]
        ],
    )  # fmt: skip


def _draw_strip(layers: Sequence[LayerError], scheme: str, unit: str) -> list[tuple[str, str, str]]:
    """Return the heat strip as (picture, caption, what it shows), none without layers."""
    if not layers:
        return []
    errors = {layer.name: layer.score_rms for layer in layers}
    title = f"{scheme.upper()}: relative RMS score error, one {unit} quantised at a time"
    worst = sorted(layers, key=lambda layer: -layer.score_rms)[:3]
    named = ", ".join(f"{layer.name} {format_error(layer.score_rms)}" for layer in worst)
    return [(draw_sensitivity(errors, title), "Sensitivity by encoder block", f"worst: {named}")]
