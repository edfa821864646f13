"""An artifact's audited kernels at the peaks of named GPUs: by kernel, by part and in all.

What it cannot know is said with every result: see `LIMITS`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.flop_ledger import FlopLedger, make_ledger
from engines.graph import load_without_weights
from engines.kernels import Kernel, parse_inspector
from engines.roofline import GPUS, LAUNCH_US, Gpu, KernelEstimate, count_flops, estimate_kernels
from export.manifest import BuiltTarget, Manifest, read_verified, verify_file
from segvit.config import SegViTConfig

SCHEMA = 1
LIMITS = (
    "Real kernels reach neither peak, so estimates are mostly too short: they rank builds, they "
    "predict no latency.",
    "Every tensor is counted as read from and written to memory: where the L2 cache holds it, "
    "memory times are too long.",
    f"A launch is taken as {LAUNCH_US} µs on every GPU; streams are taken as one.",
    "Only products are arithmetic; norms, softmax and resizing are counted by their bytes.",
    "Kernels are those compiled for the capabilities named; another GPU may be given others.",
    "Copies to and from the GPU, clocks, power limits and throttling are left out.",
)
PARTS = ("resize", "patch embed", "encoder", "head", "tail", "restore", "layout", "other")
_PART_NAMES = {"patch_embed": "patch embed"}
# Nodes that move data and compute nothing: a kernel of these alone is layout.
_MOVING = frozenset({
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True)
class AuditedEngine:
    """An engine's kernels, the part each belongs to, and its graph's operations by node."""

    folder: Path
    manifest: Manifest
    entry: BuiltTarget
    kernels: tuple[Kernel, ...]
    parts: tuple[str, ...]
    flops: dict[str, float]
    ledger: FlopLedger | None
    ledger_missing: str


def read_engine(folder: Path, target: str | None = None) -> AuditedEngine:
    """Return what an artifact's audit holds of one engine, its files checked.

    Args:
        folder: of the artifact.
        target: `trt` or `trt-rtx`; None takes the first that was audited.

    Raises:
        ValueError: if no engine was audited, or sizes are open as with a dynamic batch.
        ManifestError: if a file is not the one the manifest lists.
    """
    manifest = Manifest.read(folder)
    audited = [entry for entry in manifest.targets if entry.layers]
    entry = next((e for e in reversed(audited) if target in (None, e.target)), None)
    if entry is None or entry.layers is None:
        have = ", ".join(dict.fromkeys(e.target for e in audited)) or "none"
        wanted = target or "trt-rtx"
        raise ValueError(
            f"'{folder}' has no audited {wanted} engine (audited: {have}); build one: "
            f"python -m engines.build --artifact {folder} --target {wanted}"
        )
    layers = json.loads(read_verified(folder, entry.layers, manifest))["Layers"]
    kernels = tuple(kernel for kernel in parse_inspector(layers) if kernel.launches)
    path = verify_file(folder, "model.onnx", manifest)
    model = load_without_weights(path)
    operators = {node.name: node.op_type for node in model.graph.node}
    ledger, missing = _account(path, manifest, {e.key: e.value for e in model.metadata_props})
    parts = tuple(place_kernel(kernel, operators) for kernel in kernels)
    return AuditedEngine(
        folder, manifest, entry, kernels, parts, count_flops(path), ledger, missing
    )


def place_kernel(kernel: Kernel, operators: Mapping[str, str]) -> str:
    """Return the part of the network that a kernel computes, `layout` if it only moves data."""
    kinds = {operators[name] for name in kernel.nodes if name in operators}
    if kinds <= _MOVING and not kernel.is_product and not kernel.is_attention:
        return "layout"
    first = Counter(name.split("/")[0] for name in kernel.nodes).most_common(1)
    part = _PART_NAMES.get(first[0][0], first[0][0]) if first else "other"
    return part if part in PARTS else "other"


def describe_engine(engine: AuditedEngine, gpus: Sequence[Gpu]) -> dict[str, Any]:
    """Return the figures of an engine as JSON values; times are None where a GPU cannot run it.

    Raises:
        ValueError: if sizes are open, as with a dynamic batch.
    """
    estimates, refused = dict[str, tuple[KernelEstimate, ...]](), dict[str, str]()
    if any(kernel.byte_count is None for kernel in engine.kernels):
        raise ValueError(
            f"'{engine.folder}' has a dynamic batch, so sizes are open; build it with a fixed "
            "--batch"
        )
    for gpu in gpus:
        try:
            estimates[gpu.name] = estimate_kernels(engine.kernels, engine.flops, gpu)
        except ValueError as error:
            refused[gpu.name] = str(error)
    if not estimates:
        raise ValueError(f"'{engine.folder}' cannot be estimated: {'; '.join(refused.values())}")
    manifest, entry = engine.manifest, engine.entry
    kernels = _describe_kernels(engine, estimates)
    return {
        "artifact": str(engine.folder),
        "model": manifest.model.name,
        "precision": manifest.precision,
        "input": list(manifest.input.shape),
        "target": f"{entry.target} {entry.version}",
        "compute_capabilities": list(entry.compute_capabilities),
        "launches": len(engine.kernels),
        "flops": sum(kernel["flops"] for kernel in kernels),
        "bytes": sum(kernel["bytes"] for kernel in kernels),
        "flops_by_datatype": _sum_by(kernels, "datatype", "flops"),
        "estimated_ms": {
            name: sum(e.total_us for e in found) / 1e3 for name, found in estimates.items()
        },
        "not_estimated": refused,
        "parts": _describe_parts(kernels),
        "kernels": kernels,
        "flop_account": describe_ledger(engine.ledger) if engine.ledger else None,
        "flop_account_missing": engine.ledger_missing or None,
    }


def describe_gpus(gpus: Sequence[Gpu]) -> dict[str, Any]:
    """Return the peaks that estimates rest on, with their sources."""
    return {gpu.name: {**asdict(gpu), "tera_ops": dict(gpu.tera_ops)} for gpu in gpus}


def describe_ledger(ledger: FlopLedger) -> dict[str, Any]:
    """Return an account as JSON values."""
    return {**asdict(ledger), "accounted": ledger.accounted, "deviation": ledger.deviation}


def list_gpus(names: Sequence[str] | None) -> list[Gpu]:
    """Return the GPUs of those names, all where none are named."""
    return [GPUS[name] for name in names] if names else list(GPUS.values())


def _account(
    path: Path, manifest: Manifest, metadata: Mapping[str, str]
) -> tuple[FlopLedger | None, str]:
    """Return the account of operations, or why there is none."""
    if "config" not in metadata:
        return None, "the ONNX file holds no model config"
    if manifest.mode != "whole" or manifest.outputs[0].name != "labels":
        return None, "the papers count one crop to labels; this graph does more"
    try:
        return make_ledger(path, SegViTConfig.from_json(metadata["config"])), ""
    except ValueError as error:
        return None, str(error)


def _describe_kernels(
    engine: AuditedEngine, estimates: Mapping[str, tuple[KernelEstimate, ...]]
) -> list[dict[str, Any]]:
    rows = []
    shares = next(iter(estimates.values()))
    for index, (kernel, part) in enumerate(zip(engine.kernels, engine.parts, strict=True)):
        rows.append({
            "name": name_kernel(kernel, engine.flops),
            "part": part,
            "datatype": _datatype(kernel),
            "flops": shares[index].flops,
            "bytes": shares[index].byte_count,
            "estimated_us": {name: found[index].total_us for name, found in estimates.items()},
            "bound": {name: found[index].bound for name, found in estimates.items()},
        })  # fmt: skip
    return rows


def name_kernel(kernel: Kernel, flops: Mapping[str, float]) -> str:
    """Return what a kernel is called: its products' nodes, or its own, or the compiler's name."""
    if kernel.is_attention:
        softmax = next((name for name in kernel.nodes if "softmax" in name.lower()), None)
        return f"attention {softmax or kernel.nodes[0]}" if kernel.nodes else kernel.name
    names = [name for name in kernel.nodes if name in flops and kernel.is_product]
    names = names or list(kernel.nodes)
    if not names:
        return kernel.name
    return names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1}"


def _datatype(kernel: Kernel) -> str:
    return kernel.attention_datatype if kernel.is_attention else kernel.product_datatype


def _describe_parts(kernels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for part in PARTS:
        rows = [kernel for kernel in kernels if kernel["part"] == part]
        if rows:
            found[part] = {
                "launches": len(rows),
                "flops": sum(row["flops"] for row in rows),
                "bytes": sum(row["bytes"] for row in rows),
                "estimated_ms": {
                    name: sum(row["estimated_us"][name] for row in rows) / 1e3
                    for name in rows[0]["estimated_us"]
                },
            }
    return found


def _sum_by(rows: Sequence[Mapping[str, Any]], key: str, value: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        if row[value]:
            sums[row[key]] = sums.get(row[key], 0.0) + row[value]
    return sums
