"""Engines that an artifact lacks for this machine, built from the ONNX file inside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from engines.audit import AuditError
from engines.build_targets import TargetBuilds, build_targets
from engines.devices import AUTO_PROVIDER, Device, parse_device
from engines.fused_tail_plugin import is_fused_tail
from engines.kernels import parse_inspector
from engines.known_wrong import KnownWrongError
from engines.runtime import find_entry, verify_onnx_file
from engines.target import (
    AUTO,
    COMPILERS,
    PREFERENCE,
    Target,
    cannot_run_reason,
    own_compute_capability,
    parse_targets,
)
from engines.trt_builder import BuildOptions
from engines.trt_runtime import find_usable_entry
from export.engine_list import ENGINES_NAME, EngineList
from export.manifest import Manifest, read_verified

ONNX_NAME = "model.onnx"
Report = Callable[[str], None]


def fit_artifact(
    artifact: str | Path,
    target: str = AUTO,
    device: int | str = 0,
    report: Report = lambda line: None,
    progress: bool = False,
    digest: str | None = None,
) -> Target | None:
    """Build the engine that `open_runtime` would look for in vain; return its target.

    None is built where there is one for this GPU and version already, or where the target cannot
    run here, as `open_runtime` then says. `auto` is the best target that runs here.

    Args:
        artifact: the artifact folder, which gains the engine; a failure leaves it as it was.
        target: as for `open_runtime`.
        device: as for `open_runtime`.
        report: is told what is built and why, a line each.
        progress: show bars, on a terminal.
        digest: that the artifact must have, and keeps; None accepts any.

    Raises:
        FileNotFoundError: if there is no artifact.
        ManifestError: if the manifest, the ONNX file or a layer list is not as built.
        ImportError: if the engine is one with `--fused-tail` and Triton is not installed.
        EngineBuildError: if the builder refuses.
        AuditError: if the engine is not what the artifact's precision asks for.
        KnownWrongError: if this compiler is known to compute it wrong on this GPU.
    """
    folder, chosen = Path(artifact), parse_device(device)
    manifest = Manifest.read(folder, digest)
    for candidate in parse_targets([target]) or PREFERENCE:
        provider_asked = candidate in COMPILERS and chosen.provider != AUTO_PROVIDER
        if provider_asked or cannot_run_reason(candidate) is not None:
            continue
        reason = _unfit_reason(folder, manifest, candidate, chosen)
        if reason is None:
            return None
        report(f"rebuilding: {reason}")
        options = BuildOptions(batch=manifest.batch)
        if candidate in COMPILERS:
            own = own_compute_capability(chosen.index)
            options = replace(options, compute_capabilities=(own,), device=chosen.index)
        if candidate is Target.TRT:
            options = replace(options, fused_tail=_has_fused_tail(folder, manifest))
        # What was accepted of the engines that are there is accepted of this one.
        unfused = any(entry.audit and entry.audit.unfused for entry in manifest.targets)
        unaudited = any(entry.audit and entry.audit.unaudited for entry in manifest.targets)
        try:
            add_engines(
                folder, manifest, (candidate,), options, unfused, progress, report, unaudited
            )
        except (AuditError, KnownWrongError) as error:
            # Their advice names options of the command that builds engines, which this is not.
            command = f"python -m engines.build --artifact {folder} --target {candidate}"
            raise type(error)(f"{error} (options of {command})") from error
        return candidate
    return None


def add_engines(
    folder: Path,
    manifest: Manifest,
    targets: Sequence[Target],
    options: BuildOptions,
    allow_unfused: bool = False,
    progress: bool = True,
    report: Report = lambda line: None,
    allow_unaudited: bool = False,
) -> tuple[Manifest, TargetBuilds]:
    """Build engines beside an artifact's files, then move all in, the list of them last.

    The list is `engines.json`; `manifest.json` and the files that it lists stay as they are.

    Args:
        folder: the artifact folder.
        manifest: its manifest; the batch may be another one, which the list keeps.
        targets: none means all that this machine can build.
        options: for the builders.
        allow_unfused: accept attentions that did not fuse, with a warning.
        progress: show bars, on a terminal.
        report: is told one line for each engine built.
        allow_unaudited: accept what the audit cannot vouch for, with a warning.

    Raises:
        ManifestError: if the ONNX file is not as built.
        ValueError, EngineBuildError, AuditError: as `build_targets` does.
    """
    onnx_path = verify_onnx_file(folder, ONNX_NAME, manifest)
    assert manifest.digest is not None
    added = manifest.added or EngineList(manifest.digest, manifest.batch)
    built = set(manifest.files) - set(added.files)  # what the artifact was built with
    taken = {entry.layers: entry.file for entry in manifest.targets if entry.layers}
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as name:
        staged = Path(name)
        builds = build_targets(
            onnx_path,
            targets,
            options,
            manifest.precision,
            staged,
            allow_unfused=allow_unfused or manifest.attention == "unfused",
            progress=progress,
            report=report,
            taken=taken,
            kept=built,
            allow_unaudited=allow_unaudited,
        )
        grown = replace(added, batch=manifest.batch).with_targets(
            builds.entries, builds.not_built, builds.files, builds.warnings
        )
        # Written while the old list still stands: moving needs no more space on the disk.
        grown.write(staged, built)
        if not set(builds.files).isdisjoint(added.files):
            # Whatever ends the process between two moves, no list names a file of other bytes.
            added.without(builds.files).write(folder, built)
        for file in (*builds.files, ENGINES_NAME):
            (staged / file).replace(folder / file)
    return Manifest.read(folder, manifest.digest), builds


def _has_fused_tail(folder: Path, manifest: Manifest) -> bool:
    """Return whether an engine of the artifact was built with `--fused-tail`: its layers tell."""
    layers = {entry.layers for entry in manifest.targets if entry.target == Target.TRT}
    return any(
        is_fused_tail(kernel)
        for name in layers
        if name
        for kernel in parse_inspector(json.loads(read_verified(folder, name, manifest))["Layers"])
    )


def _unfit_reason(folder: Path, manifest: Manifest, target: Target, device: Device) -> str | None:
    """Return why no engine of a target runs on this machine, None if one does."""
    try:
        if target in COMPILERS:
            find_usable_entry(folder, manifest, target, device.index)
        else:
            find_entry(folder, manifest, target)
    except ValueError as error:
        return str(error).split(";", maxsplit=1)[0]
    return None
