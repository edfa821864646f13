"""What the report shows, gathered from artifacts and from what the other benchmarks wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_roofline import (
    LIMITS,
    describe_engine,
    describe_gpus,
    list_gpus,
    read_engine,
)
from benchmarks.latency_results import read_result
from benchmarks.report_pictures import draw_golden, draw_sensitivity, read_png
from benchmarks.report_plots import plot_latencies
from calibration.budget import FRONTIER_NAME, Frontier
from calibration.frontier import PICTURE_NAME
from export.manifest import Manifest, read_verified, verify_file
from export.verify import GATES

PARITY_SCHEMA = 1
_REPORT_FOLDER = "report"
_BUILD_NAME = "build.json"


@dataclass(frozen=True)
class ReportOptions:
    """What to put into the report; files are None where none was named."""

    latency: Path | None = None
    parity: Path | None = None
    target: str = "auto"
    pictures: int = 3
    gpus: tuple[str, ...] = ()
    top: int = 12


def gather(folders: Sequence[Path], options: ReportOptions) -> dict[str, Any]:
    """Return all that the template shows.

    Raises:
        ValueError: if the artifacts are of different models, or a result of another schema.
        ManifestError: if an artifact is not as built.
    """
    manifests = [Manifest.read(folder) for folder in folders]
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.model.name != first.model.name or manifest.classes != first.classes:
            raise ValueError(
                f"'{folder}' holds {manifest.model.name}, '{folders[0]}' {first.model.name}: one "
                "report is of one model; write one for each"
            )
    latency = _find(folders, options.latency, "latency.json")
    parity = _find(folders, options.parity, "parity.json")
    artifacts = [
        _describe_artifact(folder, manifest, options)
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    timed = read_result(latency) if latency else None
    return {
        "model": first.model.name,
        "artifacts": artifacts,
        "parity": _read_parity(parity) if parity else None,
        "latency": timed,
        "plot": plot_latencies(timed.get("samples_ms", {})) if timed else None,
        "gpus": describe_gpus(list_gpus(options.gpus)),
        "limits": LIMITS,
        "missing": [
            f"python -m benchmarks.{name} --artifact {' '.join(map(str, folders))} "
            f"--out {folders[0] / _REPORT_FOLDER / f'{name}.json'}"
            for name, found in (("latency", latency), ("parity", parity))
            if not found
        ],
    }


def _find(folders: Sequence[Path], given: Path | None, name: str) -> Path | None:
    if given:
        return given
    paths = (folder / _REPORT_FOLDER / name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _read_parity(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is no result: {error}; compare again with --out") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != PARITY_SCHEMA:
        raise ValueError(
            f"'{path}' is a result of another version: expected schema {PARITY_SCHEMA}, got "
            f"{schema!r}; compare again: python -m benchmarks.parity --out {path}"
        )
    return dict(result)


def _describe_artifact(folder: Path, manifest: Manifest, options: ReportOptions) -> dict[str, Any]:
    gate = GATES[manifest.precision]
    return {
        "folder": str(folder),
        "name": folder.name,
        "manifest": manifest,
        "gate": gate,
        "verdict": judge(manifest),
        "sizes": {name: (folder / name).stat().st_size for name in manifest.files
                  if (folder / name).is_file()},
        "precisions": _read_precisions(folder, manifest),
        "roofline": _estimate(folder, options),
        "pictures": draw_golden(folder, manifest, options.target, options.pictures),
        "frontier": _read_frontier(folder, manifest),
    }  # fmt: skip


def judge(manifest: Manifest) -> dict[str, str]:
    """Return whether an artifact passes its gates, as a word and a sentence."""
    parity, gate = manifest.parity, GATES[manifest.precision]
    precision = manifest.precision.upper()
    if manifest.model.random_weights:
        return {"word": "Not judged", "text": f"{precision} of random weights: its labels say "
                "nothing about a trained model."}  # fmt: skip
    if parity is None or parity.pixel_agreement is None:
        return {"word": "Not judged", "text": f"{precision} was never compared with PyTorch."}
    drop = (parity.miou_reference or 0) - (parity.miou or 0)
    holds = parity.pixel_agreement >= gate.pixel_agreement and drop <= gate.miou_drop
    text = (
        f"{precision} labels {parity.pixel_agreement:.3%} of pixels as PyTorch FP32 does on "
        f"{parity.images} images (gate {gate.pixel_agreement:.2%})"
    )
    if parity.miou is not None:
        text += f"; mIoU changes by {-100 * drop:+.2f} points (gate -{100 * gate.miou_drop:.2f})"
    return {"word": "Pass" if holds else "Fail", "text": f"{text}."}


def _read_precisions(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Return, by engine, how many products were asked in which datatype and got which."""
    if _BUILD_NAME not in manifest.files:
        return []
    document = json.loads(read_verified(folder, _BUILD_NAME, manifest))
    return [
        {
            "file": file,
            "counts": [
                {"asked": asked, "obtained": got, "products": count}
                for (asked, got), count in Counter(
                    (product["asked"], product["obtained"]) for product in products.values()
                ).most_common()
            ],
            "different": [
                {"name": name, **product}
                for name, product in products.items()
                if product["asked"] != product["obtained"]
            ],
        }
        for file, products in document.items()
    ]


def _estimate(folder: Path, options: ReportOptions) -> dict[str, Any]:
    """Return an artifact's roofline with its longest kernels, or why there is none."""
    try:
        described = describe_engine(read_engine(folder), list_gpus(options.gpus))
    except ValueError as error:
        return {"reason": str(error)}
    gpu = next(iter(described["estimated_ms"]))
    longest = sorted(described["kernels"], key=lambda kernel: -kernel["estimated_us"][gpu])
    return {**described, "kernels": longest[: options.top], "gpu": gpu}


def _read_frontier(folder: Path, manifest: Manifest) -> Mapping[str, Any] | None:
    if FRONTIER_NAME not in manifest.files:
        return None
    frontier = Frontier.load(verify_file(folder, FRONTIER_NAME, manifest))
    errors = {layer.name: layer.score_rms for layer in frontier.layers}
    scheme = frontier.setup.scheme.upper()
    return {
        "setup": frontier.setup,
        "points": sorted(frontier.points, key=lambda point: len(point.kept)),
        "float_speed": frontier.float_speed,
        "picture": read_png(folder, PICTURE_NAME, manifest),
        "strip": draw_sensitivity(errors, f"{scheme} of each product alone") if errors else None,
        "worst": sorted(frontier.layers, key=lambda layer: -layer.score_rms)[:5],
    }
