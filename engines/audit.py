"""What a built engine really does: kernels, fused attentions, datatypes and bytes.

The counting rules: a kernel is a layer that launches (no stream event, no shape arithmetic on the
host); its traffic is the bytes of its inputs, constants and outputs as it views them, an upper
bound since cache hits are not modelled; activations are what the builder says it reserves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.accumulators import read_attention_sums
from engines.graph import Graph, read_graph
from engines.kernel_checks import (
    QUANTIZED,
    Wrong,
    find_extra,
    find_opaque,
    find_untraced,
    find_wrong_attentions,
    find_wrong_gemms,
    shorten,
)
from engines.kernels import ACTIVATION_BYTES, Kernel, parse_inspector
from engines.parts import MEGABYTE, TAIL, Part, is_tail_fused, split_parts, sum_traffic_mb
from engines.trt_builder import BuiltEngine
from export.manifest import AuditSummary, PartSummary

# Precisions whose GEMMs, but for stated exceptions, run in this datatype.
PRECISION_DATATYPES = {
    "fp32": "Float",
    "fp16": "Half",
    "bf16": "BFloat16",
    "int8": "Int8",
    "fp8": "FP8",
}
# Precisions in which the compilers fuse attention. In FP32 none of them ever does.
_FUSING = frozenset({"Half", "BFloat16", "Int8", "FP8"})


class AuditError(RuntimeError):
    """An engine that is not what was asked for; the message names the layers."""


@dataclass(frozen=True)
class Audit:
    """The figures of one engine; megabytes are 10**6 bytes.

    `attentions` counts those of the model's description, or of the graph of a file without one;
    `unfused` names the softmax nodes of those that became several kernels. `gemm_datatypes` counts
    GEMMs by the datatype they run in, fused attentions not among them; `attention_datatypes` counts
    those. `wrong_precision` holds (kernel or attention, asked, got). `products` maps the node of
    each such GEMM, and those of quantized attentions, to the datatype asked for and the one
    obtained. `traffic_mb` is None where a dynamic batch leaves sizes open. `fused_tail` says that
    the plugin's one kernel stands for the tail. `float_sums` counts the fused attentions that sum
    in FP32 as the plan says, None where it does not; `asked_float_sums` counts those that the graph
    asks it of, `unfused_float_sums` those of the unfused ones. `unaudited` says what of the engine
    the audit cannot vouch for, `is_opaque` that a region of it is not listed at all. `budget`
    compares it with the stored figures of such builds (`engines.audit_budget`); no audit sets it.
    """

    kernels: int
    attentions: int
    fused_attentions: int
    traffic_mb: float | None
    activation_mb: float | None
    gemm_datatypes: dict[str, int]
    asked_datatypes: dict[str, int]
    parts: dict[str, Part] = field(default_factory=dict)
    unfused: tuple[str, ...] = ()
    wrong_precision: tuple[Wrong, ...] = ()
    products: dict[str, tuple[str, str]] = field(default_factory=dict)
    attention_datatypes: dict[str, int] = field(default_factory=dict)
    fused_tail: bool = False
    float_sums: int | None = None
    asked_float_sums: int = 0
    unfused_float_sums: int = 0
    unaudited: tuple[str, ...] = ()
    is_opaque: bool = False
    budget: str = ""

    def summary(self) -> AuditSummary:
        """Return what the manifest keeps."""
        return AuditSummary(
            kernels=self.kernels,
            attentions=self.attentions,
            fused_attentions=self.fused_attentions,
            traffic_mb=self.traffic_mb,
            activation_mb=self.activation_mb,
            gemm_datatypes=self.gemm_datatypes,
            parts={name: PartSummary(p.kernels, p.traffic_mb) for name, p in self.parts.items()},
            unfused=self.unfused,
            float_sums=self.float_sums,
            unaudited=self.unaudited,
            budget=self.budget,
        )

    def describe(self) -> str:
        """Return the figures as one line."""
        traffic = "" if self.traffic_mb is None else f", {self.traffic_mb:,.0f} MB moved"
        memory = ""
        if self.activation_mb is not None:
            memory = f", {self.activation_mb * MEGABYTE / 2**20:,.1f} MiB of activations"
        datatypes = _describe_counts(self.gemm_datatypes)
        fused = f"{self.fused_attentions} of {self.attentions} attentions fused"
        if QUANTIZED.intersection(self.attention_datatypes):
            fused = f"{fused} ({_describe_counts(self.attention_datatypes)})"
        if self.is_opaque:
            fused = "attentions not known"
        if self.fused_tail:
            fused += ", tail fused"
        sums = f", {self.describe_sums()}" if self.fused_attentions else ""
        budget = f", {self.budget}" if self.budget else ""
        gemms = datatypes or "none"
        return f"{self.kernels} kernels, {fused}, GEMMs {gemms}{traffic}{memory}{sums}{budget}"

    def describe_sums(self) -> str:
        """Return how the fused attentions sum, as far as the plan tells."""
        if self.float_sums is None:
            return "attention sums: not known"
        count = f"{self.float_sums} of {self.fused_attentions}"
        return f"attention sums: FP32 in {count}, read from the plan"


def audit_engine(engine: BuiltEngine, onnx_path: str | Path) -> Audit:
    """Return what `engine`, built from `onnx_path`, really does."""
    graph = read_graph(onnx_path)
    return audit_kernels(engine.kernels, graph, engine.activation_bytes, engine.plan)


def audit_layers(document: Mapping[str, Any], graph: Graph, plan: bytes | None = None) -> Audit:
    """Return the audit of a stored engine: nothing but its files goes in.

    Args:
        document: its layer list, as `engines.kernels.layers_document` gives it.
        graph: what it was compiled from.
        plan: the engine's bytes; without them, how attentions sum is not known.

    Raises:
        ValueError: if the document is no list of layers.
    """
    layers = document.get("Layers")
    if not isinstance(layers, list):
        raise ValueError("layer list: expected a list 'Layers', got none; build the engine again")
    return audit_kernels(parse_inspector(layers), graph, document.get(ACTIVATION_BYTES), plan)


def audit_kernels(
    kernels: tuple[Kernel, ...],
    graph: Graph,
    activation_bytes: int | None = None,
    plan: bytes | None = None,
) -> Audit:
    """Return the audit of a list of kernels against the graph they were compiled from.

    Args:
        kernels: all of the engine's layers.
        graph: what the engine was compiled from.
        activation_bytes: what the builder says it reserves.
        plan: the engine's bytes, which tell how attentions sum.
    """
    launched = [kernel for kernel in kernels if kernel.launches]
    products = [kernel for kernel in launched if kernel.is_product]
    fused = _find_fused(launched, graph)
    opaque = find_opaque(launched)
    unfused = () if opaque else tuple(name for name in graph.attentions if name not in fused)
    attentions = graph.described_attentions or len(graph.attentions)
    fused_tail = is_tail_fused(launched)
    return Audit(
        kernels=len(launched),
        attentions=attentions,
        fused_attentions=len(fused),
        traffic_mb=sum_traffic_mb(launched),
        activation_mb=None if activation_bytes is None else activation_bytes / MEGABYTE,
        gemm_datatypes=dict(Counter(kernel.product_datatype for kernel in products)),
        asked_datatypes=dict(Counter(graph.products.values())),
        parts=split_parts(launched),
        unfused=unfused,
        wrong_precision=(
            *find_wrong_gemms(products, graph, unfused),
            *find_wrong_attentions([k for k in launched if k.is_attention], graph),
        ),
        products=_match_products(products, graph) | _match_attentions(fused, graph),
        attention_datatypes=dict(Counter(fused.values())),
        fused_tail=fused_tail,
        float_sums=None if plan is None else _count_float_sums(plan, len(fused)),
        asked_float_sums=len(graph.float_sums.intersection(fused)),
        unfused_float_sums=len(graph.float_sums.intersection(unfused)),
        unaudited=tuple(
            opaque
            or [
                *_find_hidden(graph),
                *find_untraced(launched, graph, TAIL if fused_tail else None),
                *find_extra(launched, graph),
            ]
        ),
        is_opaque=bool(opaque),
    )


def check_audit(
    audit: Audit,
    precision: str,
    allow_unfused: bool = False,
    fused_tail: bool = False,
    allow_unaudited: bool = False,
) -> None:
    """Accept an engine that is what was asked for; with `fused_tail`, one whose tail is fused.

    GEMMs and fused attentions are compared with what the ONNX graph asks of them, so operations
    left in FP32 on purpose pass; yet most GEMMs must run in the precision asked for (for bf16,
    in 16 bits).

    Raises:
        AuditError: naming the layers whose datatype differs from the graph's, the attentions that
            did not fuse in a precision in which they can or do not sum as asked, or what of the
            engine cannot be audited; or if the tail did not fuse.
        ValueError: if `precision` is unknown.
    """
    if precision not in PRECISION_DATATYPES:
        known = ", ".join(PRECISION_DATATYPES)
        raise ValueError(f"precision '{precision}' is unknown; expected one of: {known}")
    asked = PRECISION_DATATYPES[precision]
    if audit.unaudited and not allow_unaudited:
        raise AuditError(
            f"the audit cannot vouch for the engine: {'; '.join(audit.unaudited)}; another version "
            "of the compiler may do better, or accept the engine with --allow-unaudited"
        )
    _check_datatypes(audit, precision, asked)
    if audit.unfused and asked in _FUSING and not allow_unfused:
        raise AuditError(
            f"{len(audit.unfused)} of {audit.attentions} attentions did not fuse in {precision}: "
            f"{shorten(audit.unfused)}; {_unfused_hint(audit, asked)}, or accept the slower "
            "engine with --allow-unfused"
        )
    if audit.float_sums is not None and audit.float_sums < audit.asked_float_sums:
        raise AuditError(
            f"sums in FP32 were asked of {audit.asked_float_sums} fused attentions, but only "
            f"{audit.float_sums} of {audit.fused_attentions} have them, as the plan says; this "
            "compiler does not take the casts that ask for them: export the ONNX with "
            "--attention fp16-sums, whose gate sums in FP16 too"
        )
    if fused_tail and not audit.fused_tail:
        tail = audit.parts.get("tail", Part(0, None))
        raise AuditError(
            "--fused-tail was asked for, but the labels are not those of the plugin's one kernel: "
            f"{tail.kernels} kernels make the tail; leave --fused-tail out"
        )


def _check_datatypes(audit: Audit, precision: str, asked: str) -> None:
    if audit.wrong_precision:
        shown = [f"{name} (asked {want}, got {got})" for name, want, got in audit.wrong_precision]
        raise AuditError(
            f"{len(shown)} layers do not run in the datatype that the ONNX graph gives them: "
            f"{shorten(shown)}; the builder cannot do better, change their precision in the graph"
        )
    total, obtained = sum(audit.gemm_datatypes.values()), audit.gemm_datatypes.get(asked, 0)
    # BF16 is for the encoder's range; where the range is known, the graph asks for FP16.
    beside = audit.gemm_datatypes.get("Half", 0) if precision == "bf16" and obtained else 0
    if 2 * (obtained + beside) < total and precision in ("fp32", "fp16", "bf16"):
        found = _describe_counts(audit.gemm_datatypes, ", ")
        raise AuditError(
            f"precision {precision} was asked for, but only {obtained} of {total} products run in "
            f"{asked} (found {found}); export the ONNX with --{precision}"
        )


def _unfused_hint(audit: Audit, asked: str) -> str:
    hint = "look for a second reader of their logits, or an operator before their values"
    if asked == "FP8":
        # Seen with TensorRT-RTX 1.7: an attention that is itself in FP8 fuses in these sizes only.
        hint += " and, with --quantise-attention, for fewer than 32 tokens or heads wider than 256"
    if audit.unfused_float_sums:
        hint += (
            "; a compiler that does not fuse attention whose sums are asked in FP32 may do so with "
            "--attention fp16-sums"
        )
    return hint


def _find_fused(kernels: list[Kernel], graph: Graph) -> dict[str, str]:
    """Return the datatype of each fused attention, by its softmax."""
    wanted = frozenset(graph.attentions)
    return {
        name: kernel.attention_datatype
        for kernel in kernels
        if kernel.is_attention
        for name in kernel.nodes
        if name in wanted
    }


def _find_hidden(graph: Graph) -> list[str]:
    """Return what is to be said where the graph does not show the attentions that it should."""
    described, found = graph.described_attentions, len(graph.attentions)
    if described is None or described == found:
        return []
    return [f"the model's description has {described} attentions, its ONNX graph shows {found}"]


def _count_float_sums(plan: bytes, fused: int) -> int | None:
    """Return how many fused attentions sum in FP32; None where the plan does not tell of each."""
    sums = read_attention_sums(plan)
    if sums is None or not fused:
        return None
    # A plan for several generations of GPUs holds each attention once a generation.
    if len(sums) % fused == 0:
        return sum(found.is_float32 for found in sums) * fused // len(sums)
    # It tells of some attentions alone: of FP16 sums one is enough to know that not all are FP32.
    halves = sum(not found.is_float32 for found in sums)
    return max(0, fused - halves) if halves else None


def _match_attentions(fused: Mapping[str, str], graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the datatypes asked for and obtained of quantised attentions' products, by node."""
    return {
        product: (graph.products[product], got)
        for name, got in fused.items()
        for product in graph.attention_products.get(name, ())
        if graph.products[product] in QUANTIZED
    }


def _match_products(products: list[Kernel], graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the datatype asked for and the one obtained, by node."""
    return {
        name: (graph.products[name], kernel.product_datatype)
        for kernel in products
        for name in kernel.nodes
        if name in graph.products
    }


def _describe_counts(counts: Mapping[str, int], separator: str = " + ") -> str:
    return separator.join(f"{count} {name}" for name, count in counts.items())
