"""What the report shows of one artifact: verdict, targets, precision, roofline, pictures."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.engine_roofline import describe_engine, list_gpus, read_engine
from benchmarks.report_latency import find_measured
from benchmarks.report_pictures import draw_golden
from benchmarks.report_quantisation import describe_quantisation
from benchmarks.report_tables import Cell, Table, bar, code, figure, make_table
from calibration.ranges import RANGES_NAME
from engines.stored_audit import read_audits
from engines.target import COMPILERS
from export.gates import find_class_failures
from export.manifest import BuiltTarget, Manifest, read_verified
from export.parity_record import high_end, low_end
from export.verify import GATES, Gate

REPORT_FOLDER = "report"
_BUILD_NAME = "build.json"
_NAMES_SHOWN = 20
Block = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """An artifact and what was measured of it; `name` is unique in the report."""

    folder: Path
    name: str
    manifest: Manifest
    gate: Gate
    budget_points: float | None


@dataclass(frozen=True)
class Shown:
    """What to show of artifacts: whose labels, of how many images, GPUs and kernels."""

    target: str = "auto"
    pictures: int = 3
    gpus: tuple[str, ...] = ()
    top: int = 12


def read_subject(folder: Path, name: str) -> Subject:
    """Return an artifact with the gate that it was built to hold, its audits made again.

    Raises:
        FileNotFoundError: if there is no artifact.
        ManifestError: if its manifest is damaged, or its engines' files say something else.
    """
    manifest = read_audits(folder, Manifest.read(folder))
    gate, budget = GATES[manifest.precision], find_budget(manifest.command)
    if budget is not None:
        gate = replace(gate, miou_drop=budget / 100)
    return Subject(folder, name, manifest, gate, budget)


def find_budget(command: str) -> float | None:
    """Return the points of mIoU that a build's command lets a search lose, None without one."""
    option = "--max-miou-drop="
    found = [word for word in command.split() if word.startswith(option)]
    return float(found[-1].removeprefix(option)) if found else None


def describe_artifact(
    subject: Subject, shown: Shown, latencies: Sequence[Block], parities: Sequence[Block]
) -> dict[str, Any]:
    """Return all that the template shows of one artifact.

    Args:
        subject: the artifact.
        shown: how much of it.
        latencies: what `describe_latency` gave of the runs of its model.
        parities: what `describe_parity` gave.

    Raises:
        ManifestError: if a file is not the one the manifest lists.
    """
    folder, manifest = subject.folder, subject.manifest
    return {
        "name": subject.name,
        "manifest": manifest,
        "verdict": judge(subject, parities),
        "targets": _table_targets(subject),
        "precision": _describe_precision(subject),
        "roofline": _describe_roofline(subject, shown, latencies),
        "pictures": draw_golden(folder, manifest, shown.target, shown.pictures),
        "quantisation": describe_quantisation(
            folder, folder / REPORT_FOLDER, manifest, subject.budget_points
        ),
        "command": _find_command(subject),
    }


def judge(subject: Subject, parities: Sequence[Block] = ()) -> dict[str, str]:
    """Return whether an artifact passes its gates, as a word and a sentence.

    Args:
        subject: the artifact, with what its build measured.
        parities: what `describe_parity` gave; an engine below the gate fails the artifact.
    """
    manifest, gate = subject.manifest, subject.gate
    parity, precision = manifest.parity, manifest.precision.upper()
    if manifest.model.random_weights:
        return {"word": "Not judged", "text": f"{precision} of random weights: its labels say "
                "nothing about a trained model."}  # fmt: skip
    if parity is None or parity.pixel_agreement is None:
        return {"word": "Not judged", "text": f"{precision} was never compared with PyTorch."}
    drop = (parity.miou_reference or 0) - (parity.miou or 0)
    failing = next(find_class_failures(parity.classes, gate), None)
    holds = (
        low_end(parity.pixel_agreement, parity.pixel_agreement_interval) >= gate.pixel_agreement
        and high_end(drop, parity.miou_drop_interval) <= gate.miou_drop
        and failing is None
    )
    text = (
        f"{precision} labels {parity.pixel_agreement:.3%} of pixels as PyTorch FP32 does on "
        f"{parity.images} images (gate {gate.pixel_agreement:.2%})"
    )
    if parity.miou is not None:
        text += f"; mIoU changes by {-100 * drop:+z.2f} points (gate -{100 * gate.miou_drop:.2f})"
    if failing:
        text += f"; it {failing}"
    if parity.foreign_images:
        text += "; the images are not of the kind that its classes were made for"
    measured = [
        entry
        for parity_block in parities
        for entry in parity_block["entries"]
        if entry["folder"] == subject.folder.name
    ]
    for entry in measured:
        if entry["pixel_agreement"] < gate.pixel_agreement or -entry["miou_delta"] > gate.miou_drop:
            holds = False
            text += (
                f"; on {entry['target']}, compared later, {entry['pixel_agreement']:.3%} of pixels "
                f"and {100 * entry['miou_delta']:+z.2f} points"
            )
    return {"word": "Pass" if holds else "Fail", "text": f"{text}."}


def _table_targets(subject: Subject) -> Table | None:
    folder, manifest = subject.folder, subject.manifest

    def measure_mb(name: str) -> float | None:
        path = folder / name
        return path.stat().st_size / 1e6 if path.is_file() else None

    return make_table(
        f"Targets of {subject.name}",
        ("Target", "Version", "For", "File", "MB", "Kernels", "Moved, MB", "Activations, MB",
         "Built in, s"),
        [
            (t.target, t.version, ", ".join(t.compute_capabilities) or None, code(t.file),
             figure(measure_mb(t.file), ".1f"), *_list_costs(t), figure(t.build_seconds, ".1f"))
            for t in manifest.targets
        ],
    )  # fmt: skip


def _list_costs(target: BuiltTarget) -> tuple[Cell | None, ...]:
    audit = target.audit
    if audit is None:
        return (None, None, None)
    megabytes = (audit.traffic_mb, audit.activation_mb)
    return (figure(audit.kernels, "d"), *(figure(value, ".1f") for value in megabytes))


def _describe_precision(subject: Subject) -> dict[str, Any]:
    """Return what was asked for and, of each engine, what its audit found."""
    manifest = subject.manifest
    audited = [target for target in manifest.targets if target.audit]
    as_written = [t.target for t in manifest.targets if t.target not in COMPILERS]
    notes = []
    if as_written:
        notes.append(f"{', '.join(dict.fromkeys(as_written))}: the ONNX file is computed as it is "
                     "written; there is no engine to audit.")  # fmt: skip
    for target in manifest.targets:
        if target.target in COMPILERS and not target.audit:
            notes.append(f"{target.file} was not audited: what it runs in is not known.")
        elif target.audit:
            notes += [f"{target.file}: {text}." for text in target.audit.unaudited]
    return {
        "asked": manifest.precision.upper(),
        "table": make_table(
            f"Obtained, by the audit of each engine: {subject.name}",
            ("Engine", "Target", "For", "GEMMs run in", "Attentions fused", "Not fused",
             "Attentions summed in FP32", "Stored budget"),
            [_describe_audit(target) for target in audited],
        ),
        "products": _read_products(subject),
        "notes": notes,
    }  # fmt: skip


def _describe_audit(target: BuiltTarget) -> tuple[Any, ...]:
    audit = target.audit
    assert audit is not None
    datatypes = ", ".join(f"{count} {name}" for name, count in audit.gemm_datatypes.items())
    return (
        code(target.file),
        target.target,
        ", ".join(target.compute_capabilities) or None,
        datatypes or "none",
        f"{audit.fused_attentions} of {audit.attentions}",
        ", ".join(audit.unfused) or None,
        "not known" if audit.float_sums is None
        else f"{audit.float_sums} of {audit.fused_attentions}",
        audit.budget or None,
    )  # fmt: skip


def _read_products(subject: Subject) -> list[dict[str, Any]]:
    """Return, by engine, how many of the graph's products were asked in what and got what."""
    if _BUILD_NAME not in subject.manifest.files:
        return []
    document = json.loads(read_verified(subject.folder, _BUILD_NAME, subject.manifest))
    found = []
    for file, products in document.items():
        counts = Counter((row["asked"], row["obtained"]) for row in products.values())
        different = [
            f"{name} ({row['asked']} → {row['obtained']})"
            for name, row in products.items()
            if row["asked"] != row["obtained"]
        ]
        more = len(different) - _NAMES_SHOWN
        found.append({
            "table": make_table(
                f"The graph's products, asked and obtained: {subject.name}, {file}",
                ("Asked", "Obtained", "Products"),
                [(asked, got, figure(count, "d")) for (asked, got), count in counts.most_common()],
            ),
            "different": different[:_NAMES_SHOWN] + ([f"{more} more"] if more > 0 else []),
        })  # fmt: skip
    return found


def _describe_roofline(
    subject: Subject, shown: Shown, latencies: Sequence[Block]
) -> dict[str, Any]:
    """Return an artifact's roofline with its longest kernels, or why there is none."""
    try:
        described = describe_engine(read_engine(subject.folder), list_gpus(shown.gpus))
    except ValueError as error:
        return {"reason": str(error)}
    times = described["estimated_ms"]
    gpu = next(iter(times))
    engine = f"{described['target'].split()[0]} {described['precision']}"
    found = (find_measured(run, subject.folder.name, engine) for run in latencies)
    what, measured = next(filter(None, found), ("", None))
    return {
        "summary": f"{described['target']} for {', '.join(described['compute_capabilities'])}: "
        f"{described['launches']} launches, {described['flops'] / 1e9:.2f} GFLOP, "
        f"{described['bytes'] / 1e6:.1f} MB",
        "tables": [
            _table_parts(subject.name, described, gpu),
            _table_measured(subject.name, times, what, measured),
            _table_kernels(subject.name, described, gpu, shown.top),
        ],
        "is_measured": measured is not None,
        "not_estimated": described["not_estimated"],
    }


def _table_parts(name: str, described: Block, gpu: str) -> Table | None:
    times = described["estimated_ms"]

    def describe(part: Block) -> tuple[Any, ...]:
        return (
            figure(part["launches"], "d"),
            figure(part["flops"] / 1e9),
            figure(part["bytes"] / 1e6, ".1f"),
            *(figure(part["estimated_ms"][other], ".3f") for other in times),
            bar(part["estimated_ms"][gpu] / times[gpu]),
        )

    return make_table(
        f"Estimated milliseconds at published peaks: {name}",
        ("Part", "Launches", "GFLOP", "MB", *(f"{other}, ms" for other in times),
         f"Share on {gpu}"),
        [(part, *describe(row)) for part, row in described["parts"].items()],
        ("all", *describe(described)),
    )  # fmt: skip


def _table_measured(
    name: str, times: Mapping[str, float], what: str, measured: float | None
) -> Table | None:
    if measured is None:
        return None
    return make_table(
        f"Predicted against measured: {name}; only the GPU it was measured on says anything",
        ("GPU", "Predicted, ms", f"Measured, ms: median of {what}", "Measured / predicted"),
        [(gpu, figure(ms, ".3f"), figure(measured, ".3f"), figure(measured / ms))
         for gpu, ms in times.items()],
    )  # fmt: skip


def _table_kernels(name: str, described: Block, gpu: str, top: int) -> Table | None:
    longest = sorted(described["kernels"], key=lambda kernel: -kernel["estimated_us"][gpu])[:top]
    return make_table(
        f"Longest kernels on {gpu}: {name}",
        ("Kernel", "Part", "Datatype", "MFLOP", "MB", "µs", "Bound by"),
        [
            (code(k["name"]), k["part"], k["datatype"] or None, figure(k["flops"] / 1e6, ".1f"),
             figure(k["bytes"] / 1e6), figure(k["estimated_us"][gpu]), k["bound"][gpu])
            for k in longest
        ],
    )  # fmt: skip


def _find_command(subject: Subject) -> str:
    """Return the build's command with what it was built for, which the manifest tells apart."""
    manifest = subject.manifest
    targets = list(dict.fromkeys(entry.target for entry in manifest.targets))
    capabilities = dict.fromkeys(
        name
        for entry in manifest.targets
        if entry.target == "trt-rtx"
        for name in entry.compute_capabilities
    )
    words = ["--target", *targets] if targets else []
    words += ["--compute-capability", *capabilities] if capabilities else []
    if RANGES_NAME in manifest.files:
        words += ["--ranges", str(subject.folder / RANGES_NAME)]
    words += ["--num-images", str(manifest.parity.images)] if manifest.parity else []
    return f"{manifest.command} {shlex.join([*words, '--out', str(subject.folder)])}"
