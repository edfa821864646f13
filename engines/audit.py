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

from engines.fused_tail_plugin import is_fused_tail
from engines.graph import Graph, read_graph
from engines.kernels import Kernel
from engines.trt_builder import BuiltEngine
from export.manifest import AuditSummary, PartSummary

MEGABYTE = 10**6
_NAMES_SHOWN = 4
# Precisions whose products, but for stated exceptions, run in this datatype.
PRECISION_DATATYPES = {
    "fp32": "Float",
    "fp16": "Half",
    "bf16": "BFloat16",
    "int8": "Int8",
    "fp8": "FP8",
}
_QUANTISED = frozenset({"Int8", "FP8"})
# Precisions in which the compilers fuse attention. In FP32 none of them ever does.
_FUSING = frozenset({"Half", "BFloat16", "Int8", "FP8"})
# The first part of a node's name is the module it comes from (export.passes.node_names).
_PARTS = {
    "resize": "resize",
    "patch_embed": "patch embed",
    "encoder": "encoder",
    "head": "head",
    "tail": "tail",
    "restore": "restore",
}
OTHER_PART = "other"


class AuditError(RuntimeError):
    """An engine that is not what was asked for; the message names the layers."""


@dataclass(frozen=True)
class Part:
    """The share of one part of the network; `traffic_mb` is None if sizes are open."""

    kernels: int
    traffic_mb: float | None


@dataclass(frozen=True)
class Audit:
    """The figures of one engine; megabytes are 10**6 bytes.

    `attentions` counts those of the ONNX graph, `unfused` names the softmax nodes of those that
    became several kernels. `gemm_datatypes` counts products by the datatype they run in, fused
    attentions not among them; `attention_datatypes` counts those. `wrong_precision` holds (kernel
    or attention, asked, got). `products` maps the node of each such product, and those of quantised
    attentions, to the datatype asked for and the one obtained. `traffic_mb` is None where a dynamic
    batch leaves sizes open. `fused_tail` says that the plugin's one kernel stands for the tail.
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
    wrong_precision: tuple[tuple[str, str, str], ...] = ()
    products: dict[str, tuple[str, str]] = field(default_factory=dict)
    attention_datatypes: dict[str, int] = field(default_factory=dict)
    fused_tail: bool = False

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
        )

    def describe(self) -> str:
        """Return the figures as one line."""
        traffic = "" if self.traffic_mb is None else f", {self.traffic_mb:,.0f} MB moved"
        memory = ""
        if self.activation_mb is not None:
            memory = f", {self.activation_mb * MEGABYTE / 2**20:,.1f} MiB of activations"
        datatypes = _describe_counts(self.gemm_datatypes)
        fused = f"{self.fused_attentions} of {self.attentions} attentions fused"
        if _QUANTISED.intersection(self.attention_datatypes):
            fused = f"{fused} ({_describe_counts(self.attention_datatypes)})"
        if self.fused_tail:
            fused += ", tail fused"
        return f"{self.kernels} kernels, {fused}, GEMMs {datatypes or 'none'}{traffic}{memory}"


def audit_engine(engine: BuiltEngine, onnx_path: str | Path) -> Audit:
    """Return what `engine`, built from `onnx_path`, really does."""
    return audit_kernels(engine.kernels, read_graph(onnx_path), engine.activation_bytes)


def audit_kernels(
    kernels: tuple[Kernel, ...], graph: Graph, activation_bytes: int | None = None
) -> Audit:
    """Return the audit of a list of kernels against the graph they were compiled from."""
    launched = [kernel for kernel in kernels if kernel.launches]
    products = [kernel for kernel in launched if kernel.is_product]
    fused = _find_fused(launched, graph)
    unfused = tuple(name for name in graph.attentions if name not in fused)
    return Audit(
        kernels=len(launched),
        attentions=len(graph.attentions),
        fused_attentions=len(graph.attentions) - len(unfused),
        traffic_mb=_traffic_mb(launched),
        activation_mb=None if activation_bytes is None else activation_bytes / MEGABYTE,
        gemm_datatypes=dict(Counter(kernel.product_datatype for kernel in products)),
        asked_datatypes=dict(Counter(graph.products.values())),
        parts=_split_parts(launched),
        unfused=unfused,
        wrong_precision=(
            *_find_wrong_precision(products, graph, frozenset(unfused)),
            *_find_wrong_attentions(fused, graph),
        ),
        products=_match_products(products, graph) | _match_attentions(fused, graph),
        attention_datatypes=dict(Counter(fused.values())),
        fused_tail=_is_tail_fused(launched),
    )  # fmt: skip


def check_audit(
    audit: Audit, precision: str, allow_unfused: bool = False, fused_tail: bool = False
) -> None:
    """Accept an engine that is what was asked for; with `fused_tail`, one whose tail is fused.

    Products and fused attentions are compared with what the ONNX graph asks of them, so operations
    left in FP32 on purpose pass; yet most products must run in the precision asked for (for bf16,
    in 16 bits).

    Raises:
        AuditError: naming the layers whose datatype differs from the graph's, or the attentions
            that did not fuse in a precision in which they can; or if the tail did not.
        ValueError: if `precision` is unknown.
    """
    if precision not in PRECISION_DATATYPES:
        known = ", ".join(PRECISION_DATATYPES)
        raise ValueError(f"precision '{precision}' is unknown; expected one of: {known}")
    asked = PRECISION_DATATYPES[precision]
    if audit.wrong_precision:
        shown = [f"{name} (asked {want}, got {got})" for name, want, got in audit.wrong_precision]
        raise AuditError(
            f"{len(shown)} layers do not run in the datatype that the ONNX graph gives them: "
            f"{_shorten(shown)}; the builder cannot do better, change their precision in the graph"
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
    if audit.unfused and asked in _FUSING and not allow_unfused:
        raise AuditError(
            f"{len(audit.unfused)} of {audit.attentions} attentions did not fuse in {precision}: "
            f"{_shorten(audit.unfused)}; {_unfused_hint(asked)}, or accept the slower engine with "
            "--allow-unfused"
        )
    if fused_tail and not audit.fused_tail:
        tail = audit.parts.get("tail", Part(0, None))
        raise AuditError(
            "--fused-tail was asked for, but the labels are not those of the plugin's one kernel: "
            f"{tail.kernels} kernels make the tail; leave --fused-tail out"
        )


def _unfused_hint(asked: str) -> str:
    # Seen with TensorRT-RTX 1.7: an attention that is itself in FP8 fuses in these sizes only.
    sizes = " and, with --quantise-attention, for fewer than 32 tokens or heads wider than 256"
    return f"look for a second reader of their logits{sizes if asked == 'FP8' else ''}"


def _find_wrong_precision(
    products: list[Kernel], graph: Graph, unfused: frozenset[str]
) -> tuple[tuple[str, str, str], ...]:
    """Return (names, asked, got) of each product that runs in another datatype than its nodes."""
    inside = {name for names in graph.attention_products.values() for name in names}
    # A quantised attention that is not fused is an error as such, whatever its pieces run in.
    pieces = {
        name
        for softmax in unfused
        for name in graph.attention_products.get(softmax, ())
        if _QUANTISED.intersection(graph.products[n] for n in graph.attention_products[softmax])
    }
    wrong = []
    for kernel in products:
        names = [name for name in kernel.nodes if name not in pieces]
        asked = {name: graph.products[name] for name in names if name in graph.products}
        if asked and kernel.product_datatype not in asked.values():
            wanted = "/".join(sorted(set(asked.values())))
            wrong.append(("+".join(asked), wanted, kernel.product_datatype))
    found = _match_products(products, graph)
    # A quantised product that no kernel names would pass unseen; those of an attention have no
    # kernel of their own where it is fused.
    wrong += [
        (name, asked, "no kernel of its own")
        for name, asked in graph.products.items()
        if asked in _QUANTISED and name not in found and name not in inside
    ]
    return tuple(wrong)


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


def _find_wrong_attentions(
    fused: Mapping[str, str], graph: Graph
) -> tuple[tuple[str, str, str], ...]:
    """Return (softmax, asked, got) of each fused attention that is quantised otherwise than asked.

    A mask keeps a datatype of its own, so floats are left to the compiler.
    """
    wrong = []
    for name, got in fused.items():
        asked = {graph.products[product] for product in graph.attention_products.get(name, ())}
        if asked and asked != {got} and _QUANTISED & {got, *asked}:
            wrong.append((name, "/".join(sorted(asked)), got))
    return tuple(wrong)


def _match_attentions(fused: Mapping[str, str], graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the datatypes asked for and obtained of quantised attentions' products, by node."""
    return {
        product: (graph.products[product], got)
        for name, got in fused.items()
        for product in graph.attention_products.get(name, ())
        if graph.products[product] in _QUANTISED
    }


def _match_products(products: list[Kernel], graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the datatype asked for and the one obtained, by node."""
    return {
        name: (graph.products[name], kernel.product_datatype)
        for kernel in products
        for name in kernel.nodes
        if name in graph.products
    }


def _is_tail_fused(kernels: list[Kernel]) -> bool:
    """Return whether the plugin is there, and no product of the tail that it replaces."""
    left = any(k.is_product and any(n.startswith("tail/") for n in k.nodes) for k in kernels)
    return sum(map(is_fused_tail, kernels)) == 1 and not left


def _split_parts(kernels: list[Kernel]) -> dict[str, Part]:
    """Return the parts; a copy that the compiler made, without nodes, goes with its predecessor."""
    groups: dict[str, list[Kernel]] = {}
    part = OTHER_PART
    for kernel in kernels:
        found = Counter(_PARTS.get(name.split("/")[0], OTHER_PART) for name in kernel.nodes)
        part = found.most_common(1)[0][0] if found else part
        groups.setdefault(part, []).append(kernel)
    return {
        name: Part(len(groups[name]), _traffic_mb(groups[name]))
        for name in (*_PARTS.values(), OTHER_PART)
        if name in groups
    }


def _traffic_mb(kernels: list[Kernel]) -> float | None:
    counts = [kernel.byte_count for kernel in kernels]
    known = [count for count in counts if count is not None]
    return sum(known) / MEGABYTE if len(known) == len(counts) else None


def _describe_counts(counts: Mapping[str, int], separator: str = " + ") -> str:
    return separator.join(f"{count} {name}" for name, count in counts.items())


def _shorten(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
