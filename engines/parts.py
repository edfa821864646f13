"""The parts of a network that the kernels of an engine belong to, and what each costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engines.fused_tail_plugin import is_fused_tail
from engines.kernels import Kernel

MEGABYTE = 10**6
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
TAIL = "tail/"


@dataclass(frozen=True)
class Part:
    """The share of one part of the network; `traffic_mb` is None if sizes are open."""

    kernels: int
    traffic_mb: float | None


def is_tail_fused(kernels: Sequence[Kernel]) -> bool:
    """Return whether the plugin is there, and no GEMM of the tail that it replaces."""
    left = any(k.is_product and any(n.startswith(TAIL) for n in k.nodes) for k in kernels)
    return sum(map(is_fused_tail, kernels)) == 1 and not left


def split_parts(kernels: Sequence[Kernel]) -> dict[str, Part]:
    """Return the parts; a copy that the compiler made, without nodes, goes with its predecessor."""
    groups: dict[str, list[Kernel]] = {}
    part = OTHER_PART
    for kernel in kernels:
        found = Counter(_PARTS.get(name.split("/")[0], OTHER_PART) for name in kernel.nodes)
        part = found.most_common(1)[0][0] if found else part
        groups.setdefault(part, []).append(kernel)
    return {
        name: Part(len(groups[name]), sum_traffic_mb(groups[name]))
        for name in (*_PARTS.values(), OTHER_PART)
        if name in groups
    }


def sum_traffic_mb(kernels: Sequence[Kernel]) -> float | None:
    """Return the megabytes that kernels read and write; None where a size is open."""
    counts = [kernel.byte_count for kernel in kernels]
    known = [count for count in counts if count is not None]
    return sum(known) / MEGABYTE if len(known) == len(counts) else None
