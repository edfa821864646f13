"""What the report shows, gathered from artifacts and from what the other benchmarks wrote.

Artifacts are grouped by what can be compared: model, weights, classes, size and mode.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_roofline import LIMITS, describe_gpus, list_gpus
from benchmarks.latency_results import read_latency
from benchmarks.report_artifact import (
    REPORT_FOLDER,
    Shown,
    Subject,
    describe_artifact,
    read_subject,
)
from benchmarks.report_build_parity import describe_build_parity
from benchmarks.report_latency import describe_latency
from benchmarks.report_parity import describe_parity, read_parity
from benchmarks.report_sweep import read_sweep
from benchmarks.report_tables import Table, figure, make_table

_ONNX_NAME = "model.onnx"
Result = dict[str, Any]
Group = Sequence[Subject]
Found = list[tuple[Path, Result]]


@dataclass(frozen=True)
class Sources:
    """Results named by the user; without them, those in each artifact's report folder."""

    latency: tuple[Path, ...] = ()
    parity: tuple[Path, ...] = ()
    sweep: Path | None = None


def gather(folders: Sequence[Path], sources: Sources, shown: Shown) -> dict[str, Any]:
    """Return all that the template shows, artifacts grouped by model.

    Raises:
        ValueError: if a folder is given twice, or a result is damaged, of another version, or of
            none of the artifacts.
        ManifestError: if an artifact is not as built.
    """
    groups = group_artifacts(folders)
    latencies = _find_results(groups, sources.latency, "latency", read_latency, _was_timed)
    parities = _find_results(groups, sources.parity, "parity", read_parity, _was_compared)
    return {
        "models": [
            _describe_model(f"m{number}", group, latency, parity, shown)
            for number, (group, latency, parity) in enumerate(
                zip(groups, latencies, parities, strict=True), 1
            )
        ],
        "sweep": read_sweep(sources.sweep) if sources.sweep else None,
        "gpus": _table_gpus(shown.gpus),
        "limits": LIMITS,
    }


def group_artifacts(folders: Sequence[Path]) -> list[list[Subject]]:
    """Return the artifacts by what can be compared, in the order given.

    Raises:
        ValueError: if a folder is given twice.
    """
    counts = Counter(folder.resolve() for folder in folders)
    twice = next((folder for folder in folders if counts[folder.resolve()] > 1), None)
    if twice:
        raise ValueError(f"--artifact: '{twice}' is given twice; give each artifact once")
    names = Counter(folder.resolve().name for folder in folders)
    groups: dict[Any, list[Subject]] = {}
    for folder in folders:
        name = folder.resolve().name
        subject = read_subject(folder, name if names[name] == 1 else str(folder))
        m = subject.manifest
        key = (m.model.name, m.model.checkpoint_sha256, m.classes, m.input.shape[1:], m.mode)
        groups.setdefault(key, []).append(subject)
    return list(groups.values())


def _find_results(
    groups: Sequence[Group],
    given: Sequence[Path],
    name: str,
    read: Callable[[Path], Result],
    belongs: Callable[[Result, Group], bool],
) -> list[Found]:
    """Return the results of each group: of the files given, else of its report folders.

    Raises:
        ValueError: if a file is of none of the artifacts.
    """
    own = (s.folder / REPORT_FOLDER / f"{name}.json" for group in groups for s in group)
    found: list[Found] = [[] for _ in groups]
    for path in given or [path for path in own if path.is_file()]:
        result = read(path)
        fitting = [
            results
            for group, results in zip(groups, found, strict=True)
            if _lies_within(path, group) or _guard(path, belongs, result, group)
        ]
        if not fitting:
            raise ValueError(
                f"'{path}' is a result of none of these artifacts; give one of benchmarks.{name} "
                "--artifact with a folder that the report is of"
            )
        for results in fitting:
            results.append((path, result))
    return found


def _lies_within(path: Path, group: Group) -> bool:
    return any(path.resolve().is_relative_to(s.folder.resolve()) for s in group)


def _was_timed(result: Result, group: Group) -> bool:
    manifest, subject = group[0].manifest, result["subject"]
    size = list(manifest.input.shape[1:3])
    return bool(subject["model"] == manifest.model.name and subject["size"] == size)


def _was_compared(result: Result, group: Group) -> bool:
    names = {Path(entry["artifact"]).name for entry in result["artifacts"]}
    return any(subject.folder.name in names for subject in group)


def _guard(path: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the work gives; a result that lacks what it needs is one clear error."""
    try:
        return work(*arguments)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(
            f"'{path}' is damaged: {type(error).__name__} {error}; measure again with --out {path}"
        ) from error


def _describe_model(
    key: str, group: Group, latencies: Found, parities: Found, shown: Shown
) -> dict[str, Any]:
    """Return the section of one model; `key` begins the names of its anchors."""
    first = group[0].manifest
    runs = [
        {
            **_guard(path, describe_latency, result),
            "stale": _guard(path, _find_stale, result, group),
        }
        for path, result in latencies
    ]
    compared = [_guard(path, describe_parity, result) for path, result in parities]
    return {
        "key": key,
        "title": f"{first.model.name}, {'×'.join(map(str, first.input.shape[1:3]))}",
        "artifacts": [describe_artifact(subject, shown, runs, compared) for subject in group],
        "parity_at_build": describe_build_parity(group),
        "latencies": runs,
        "parities": compared,
        "missing": list(_list_missing(group, {"latency": latencies, "parity": parities})),
    }


def _find_stale(result: Result, group: Group) -> list[str]:
    """Return a caveat for each artifact that was built again since it was measured."""
    measured = {name: one["files"] for name, one in result["artifacts"].items()}
    return [
        f"{subject.name} was built again after it was measured; measure it again"
        for subject in group
        if (files := measured.get(subject.folder.name))
        and files.get(_ONNX_NAME) != subject.manifest.files.get(_ONNX_NAME)
    ]


def _list_missing(group: Group, found: dict[str, Found]) -> Iterator[str]:
    folders = shlex.join(str(subject.folder) for subject in group)
    for name, results in found.items():
        if not results:
            out = group[0].folder / REPORT_FOLDER / f"{name}.json"
            yield f"python -m benchmarks.{name} --artifact {folders} --out {shlex.quote(str(out))}"


def _table_gpus(names: Sequence[str]) -> Table | None:
    return make_table(
        "Peaks that estimates rest on: dense, tera-operations a second",
        ("GPU", "Memory, GB/s", "By datatype", "Source"),
        [
            (name, figure(gpu["bandwidth_gb_s"], ".0f"),
             ", ".join(f"{kind} {peak:g}" for kind, peak in gpu["tera_ops"].items()), gpu["source"])
            for name, gpu in describe_gpus(list_gpus(names)).items()
        ],
    )  # fmt: skip
