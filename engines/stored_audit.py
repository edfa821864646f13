"""An artifact's audits, made again of its hashed files whenever they are read for people.

The manifest keeps what the audit of each engine found when it was built. Those figures stand in a
text that anybody can edit; here they are compared with what the files themselves say.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engines.audit import Audit, audit_layers
from engines.graph import Graph, read_graph
from engines.runtime import verify_onnx_file
from export.manifest import (
    AuditSummary,
    BuiltTarget,
    Manifest,
    ManifestError,
    read_verified,
)

ONNX_NAME = "model.onnx"
BUILD_NAME = "build.json"
# A verdict on the figures, not one of them.
_NOT_READ = ("budget",)


def read_audits(folder: str | Path, manifest: Manifest) -> Manifest:
    """Return the manifest with the audit of each engine made again of the artifact's files.

    Raises:
        ManifestError: as `read_audit` does.
    """
    folder = Path(folder)
    if all(entry.audit is None for entry in manifest.targets):
        return manifest
    graph = _read_graph(folder, manifest)
    return replace(
        manifest,
        targets=tuple(
            replace(entry, audit=read_audit(folder, manifest, entry, graph))
            for entry in manifest.targets
        ),
    )


def read_audit(
    folder: str | Path, manifest: Manifest, entry: BuiltTarget, graph: Graph | None = None
) -> AuditSummary | None:
    """Return an engine's audit, made again of the artifact's files; None where it had none.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        entry: the engine.
        graph: what it was compiled from, if that was read already.

    Raises:
        ManifestError: if the graph, the layer list, the engine or `build.json` is not the file that
            the manifest lists, or if they say something else than the manifest does; the message
            names the figure that differs.
    """
    folder, recorded = Path(folder), entry.audit
    if recorded is None:
        return None
    if entry.layers is None:
        raise ManifestError(
            f"'{folder / entry.file}' has an audit but no layer list that it could be made of; "
            f"build it again: python -m engines.build --artifact {folder} --target {entry.target}"
        )
    document = _read_json(folder, entry.layers, manifest)
    plan = read_verified(folder, entry.file, manifest)
    try:
        audit = audit_layers(document, graph or _read_graph(folder, manifest), plan)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"'{folder / entry.layers}' is no layer list: {error!r}; build the engine again: "
            f"python -m engines.build --artifact {folder} --target {entry.target}"
        ) from error
    found = replace(audit.summary(), **{name: getattr(recorded, name) for name in _NOT_READ})
    _compare(folder, entry, asdict(recorded), asdict(found), "the manifest")
    _compare_gemms(folder, manifest, entry, audit)
    return found


def _compare_gemms(folder: Path, manifest: Manifest, entry: BuiltTarget, audit: Audit) -> None:
    """Compare what `build.json` says of the GEMMs of an engine, if it says something."""
    if BUILD_NAME not in manifest.files:
        return
    recorded = _read_json(folder, BUILD_NAME, manifest).get(entry.file)
    if recorded is not None:
        found = {name: {"asked": a, "obtained": g} for name, (a, g) in audit.products.items()}
        _compare(folder, entry, recorded, found, BUILD_NAME)


def _compare(folder: Path, entry: BuiltTarget, recorded: Any, found: Any, where: str) -> None:
    """Raise ManifestError naming the first figure in which the two differ."""
    difference = _find_difference(recorded, found)
    if difference is not None:
        name, told, read = difference
        raise ManifestError(
            f"'{folder / entry.file}': {where} says {name} {told!r}, its files say {read!r}; one "
            "was edited, or is of another version of this project: do not trust it, build it "
            f"again: python -m engines.build --artifact {folder} --target {entry.target}"
        )


def _find_difference(recorded: Any, found: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the path of the first value that differs, such as `parts.tail.kernels`, and both."""
    if not (isinstance(recorded, dict) and isinstance(found, dict)):
        return None if recorded == found else (name, recorded, found)
    for key in dict.fromkeys((*recorded, *found)):
        inner = f"{name}.{key}" if name else key
        difference = _find_difference(recorded.get(key), found.get(key), inner)
        if difference is not None:
            return difference
    return None


def _read_graph(folder: Path, manifest: Manifest) -> Graph:
    return read_graph(verify_onnx_file(folder, ONNX_NAME, manifest))


def _read_json(folder: Path, name: str, manifest: Manifest) -> dict[str, Any]:
    """Return a JSON object of the artifact, of the bytes that were hashed."""
    data = read_verified(folder, name, manifest)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"'{folder / name}' is no JSON: {error}; build it again") from error
    if not isinstance(document, dict):
        raise ManifestError(f"'{folder / name}': expected a JSON object; build it again")
    return document
