"""What a built engine really does: kernels, fused attentions, datatypes and bytes.

The counting rules: a kernel is a layer that launches (no stream event, no shape arithmetic on the
host); its traffic is the bytes of its inputs, constants and outputs as it views them, an upper
bound since cache hits are not modelled; activations are what the builder says it reserves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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
_PARTS = {"patch_embed": "patch embed", "encoder": "encoder", "head": "head", "tail": "tail"}
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
    attentions not among them. `wrong_precision` holds (kernel, asked, got). `products` maps the
    node of each such product to the datatype asked for and the one obtained. `traffic_mb` is None
    where a dynamic batch leaves sizes open.
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
        datatypes = " + ".join(f"{count} {name}" for name, count in self.gemm_datatypes.items())
        return (
            f"{self.kernels} kernels, {self.fused_attentions} of {self.attentions} attentions "
            f"fused, GEMMs {datatypes or 'none'}{traffic}{memory}"
        )


def audit_engine(engine: BuiltEngine, onnx_path: str | Path) -> Audit:
    """Return what `engine`, built from `onnx_path`, really does."""
    return audit_kernels(engine.kernels, read_graph(onnx_path), engine.activation_bytes)


def audit_kernels(
    kernels: tuple[Kernel, ...], graph: Graph, activation_bytes: int | None = None
) -> Audit:
    """Return the audit of a list of kernels against the graph they were compiled from."""
    launched = [kernel for kernel in kernels if kernel.launches]
    products = [kernel for kernel in launched if kernel.is_product]
    fused_nodes = {name for kernel in launched if kernel.is_attention for name in kernel.nodes}
    unfused = tuple(name for name in graph.attentions if name not in fused_nodes)
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
        wrong_precision=_find_wrong_precision(products, graph),
        products=_match_products(products, graph),
    )


def check_audit(audit: Audit, precision: str, allow_unfused: bool = False) -> None:
    """Accept an engine that is what was asked for.

    A product is compared with what the ONNX graph asks of it, so operations left in FP32 on
    purpose pass; yet most products must run in the precision asked for (for bf16, in 16 bits).

    Raises:
        AuditError: naming the layers whose datatype differs from the graph's, or the attentions
            that did not fuse in a precision in which they can.
        ValueError: if `precision` is unknown.
    """
    if precision not in PRECISION_DATATYPES:
        known = ", ".join(PRECISION_DATATYPES)
        raise ValueError(f"precision '{precision}' is unknown; expected one of: {known}")
    asked = PRECISION_DATATYPES[precision]
    if audit.wrong_precision:
        shown = [f"{name} (asked {want}, got {got})" for name, want, got in audit.wrong_precision]
        raise AuditError(
            f"{len(shown)} products do not run in the datatype that the ONNX graph gives them: "
            f"{_shorten(shown)}; the builder cannot do better, change their precision in the graph"
        )
    total, obtained = sum(audit.gemm_datatypes.values()), audit.gemm_datatypes.get(asked, 0)
    # BF16 is for the encoder's range; where the range is known, the graph asks for FP16.
    beside = audit.gemm_datatypes.get("Half", 0) if precision == "bf16" and obtained else 0
    if 2 * (obtained + beside) < total and precision in ("fp32", "fp16", "bf16"):
        found = ", ".join(f"{count} {name}" for name, count in audit.gemm_datatypes.items())
        raise AuditError(
            f"precision {precision} was asked for, but only {obtained} of {total} products run in "
            f"{asked} (found {found}); export the ONNX with --{precision}"
        )
    if audit.unfused and asked in _FUSING and not allow_unfused:
        raise AuditError(
            f"{len(audit.unfused)} of {audit.attentions} attentions did not fuse in {precision}: "
            f"{_shorten(audit.unfused)}; look for a second reader of their logits, or accept the "
            "slower engine with --allow-unfused"
        )


def _find_wrong_precision(products: list[Kernel], graph: Graph) -> tuple[tuple[str, str, str], ...]:
    """Return (names, asked, got) of each product that runs in another datatype than its nodes."""
    wrong = []
    for kernel in products:
        asked = {name: graph.products[name] for name in kernel.nodes if name in graph.products}
        if asked and kernel.product_datatype not in asked.values():
            wanted = "/".join(sorted(set(asked.values())))
            wrong.append(("+".join(asked), wanted, kernel.product_datatype))
    found = _match_products(products, graph)
    # A quantised product that no kernel names would pass unseen.
    wrong += [
        (name, asked, "no kernel of its own")
        for name, asked in graph.products.items()
        if asked in _QUANTISED and name not in found
    ]
    return tuple(wrong)


def _match_products(products: list[Kernel], graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the datatype asked for and the one obtained, by node."""
    return {
        name: (graph.products[name], kernel.product_datatype)
        for kernel in products
        for name in kernel.nodes
        if name in graph.products
    }


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


def _shorten(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
