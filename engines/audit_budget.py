"""Engines of known variants beside the kernels and the memory traffic that they are to have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from engines.audit import Audit, AuditError
from engines.graph import Graph
from engines.kernel_checks import QUANTIZED
from engines.target import Target
from segvit.atomic import write_bytes
from segvit.config import VARIANTS, SegViTConfig

BUDGETS_PATH = Path(__file__).with_name("audit_budgets.json")
NO_BUDGET = "no stored budget for this model and compiler"
# Copies come and go with a compiler's patches; fifty kernels more are a tenth of the largest model.
TOLERANCE = 0.05
_UPDATE = "python -m benchmarks.audit_budget --update"
# TensorRT-RTX gives all GPUs of a row the same kernels but in FP8, which the first of them lacks.
_GENERATIONS = (("SM120", 120), ("SM80", 80), ("SM75", 75))


@dataclass(frozen=True)
class Budget:
    """Kernels, and megabytes (10**6 bytes) read and written; None where sizes are open."""

    kernels: int
    traffic_mb: float | None


def describe_build(
    graph: Graph, target: Target, version: str, capabilities: Sequence[str]
) -> str | None:
    """Return what a build's budget is stored under, None for an architecture of no named variant.

    It says all that decides the kernels: the variant, the precision, the input's and output's
    form, how attention is asked for, and the compiler. Class names, weights and normalization of
    the model may be others than the variant's.
    """
    config = graph.config
    variant = None if config is None else find_architecture(config)
    if variant is None or len(graph.tensors) != 2 or "precision" not in graph.metadata:
        return None
    (_, shape), (output, _) = graph.tensors.items()
    size = "x".join("N" if side < 0 else str(side) for side in shape[:3])
    form = [output]
    form += [f"{graph.passes} window batches"] if graph.passes > 1 else []
    form += [f"{graph.tails} tails"] if graph.tails > 1 else []
    asked = {graph.products[name] for names in graph.attention_products.values() for name in names}
    attention = "+".join(sorted(asked)) + (" summed in FP32" if graph.float_sums else "")
    quantized = sum(kind in QUANTIZED for kind in graph.products.values())
    precision = json.loads(graph.metadata["precision"])
    precision += f" ({quantized} quantized)" if quantized else ""
    compiler = f"{target} {'.'.join(version.split('.')[:2])}"
    return ", ".join((
        variant, size, " ".join(form), precision, f"attention {attention}", compiler,
        find_generation(capabilities),
    ))  # fmt: skip


def find_generation(capabilities: Sequence[str]) -> str:
    """Return the GPUs that share budgets with the oldest of these, by the first of them."""
    oldest = min(int(name.removeprefix("SM")) for name in capabilities)
    return next((name for name, first in _GENERATIONS if oldest >= first), f"SM{oldest}")


def find_architecture(config: SegViTConfig) -> str | None:
    """Return the named variant of a model's architecture and number of classes."""
    for name, known in VARIANTS.items():
        same = replace(
            config, name=known.name, mean=known.mean, std=known.std, stride=known.stride,
            short_side=known.short_side, drop_path_rate=known.drop_path_rate,
            class_names=known.class_names if len(known.class_names) == config.num_classes else (),
            palette=known.palette if len(known.palette) == config.num_classes else (),
        )  # fmt: skip
        if same == known:
            return name
    return None


def read_budgets(path: Path = BUDGETS_PATH) -> dict[str, Budget]:
    """Return the stored budgets, by `describe_build`."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: Budget(**values) for name, values in stored.items()}


def write_budgets(budgets: Mapping[str, Budget], path: Path = BUDGETS_PATH) -> None:
    """Write budgets, a line each and sorted, so that a difference is read at one glance."""
    lines = (f"{json.dumps(n)}: {json.dumps(asdict(b))}" for n, b in sorted(budgets.items()))
    write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def check_budget(audit: Audit, name: str | None, budgets: Mapping[str, Budget]) -> str:
    """Return in words how an engine compares with its stored budget.

    Args:
        audit: of the engine.
        name: what its budget is stored under, None for an unknown architecture.
        budgets: those stored.

    Raises:
        AuditError: if it has over 5 % more kernels or memory traffic than stored.
    """
    budget = budgets.get(name or "")
    if budget is None:
        return NO_BUDGET
    stored = f"{budget.kernels} kernels"
    growths = [audit.kernels / budget.kernels - 1]
    if budget.traffic_mb is not None and audit.traffic_mb is not None:
        stored += f", {budget.traffic_mb:,.1f} MB"
        growths.append(audit.traffic_mb / budget.traffic_mb - 1)
    most, least = max(growths), min(growths)
    if most > TOLERANCE:
        got = f"{audit.kernels} kernels" + (
            "" if audit.traffic_mb is None else f", {audit.traffic_mb:,.1f} MB"
        )
        raise AuditError(
            f"the engine is {most:.0%} above its stored budget ({name}): expected {stored}, got "
            f"{got}; find what makes the compiler do more, accept the engine with "
            f"--allow-unaudited, or store the new figures with {_UPDATE}"
        )
    if least < -TOLERANCE:
        return f"{-least:.0%} below the stored budget of {stored}: store it anew with {_UPDATE}"
    return f"within {TOLERANCE:.0%} of the stored {stored}"
