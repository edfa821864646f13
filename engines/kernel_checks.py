"""Whether the kernels of an engine do what a graph asks: all of it, once, in its datatypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from engines.graph import Graph
from engines.kernels import Kernel

QUANTIZED = frozenset({"Int8", "FP8"})
_NAMES_SHOWN = 4

# (names, asked, got) of a kernel or an attention.
Wrong = tuple[str, str, str]
# Kernels that do no node's work are copies between layouts. Seen in builds of all variants: none in
# most, up to 6 with a dynamic batch, and 4 more for each image, strip or window of the tail.
_COPIES, _COPIES_A_TAIL = 8, 4
# Beside a GEMM: what pads either operand to a multiple of eight.
_PADDINGS = 2


def find_wrong_gemms(gemms: Sequence[Kernel], graph: Graph, unfused: Iterable[str]) -> list[Wrong]:
    """Return each GEMM kernel that runs in another datatype than its nodes.

    The weights (or, without them, the first operand) run in what the graph asks, and so does at
    least one input; any further matrix is in a datatype that the graph has there: a residual, a
    table. A quantized attention that is not fused is an error as such, whatever its GEMMs run in.
    """
    pieces = {
        name
        for softmax in unfused
        for name in graph.attention_products.get(softmax, ())
        if QUANTIZED.intersection(graph.products[n] for n in graph.attention_products[softmax])
    }
    wrong = []
    for kernel in gemms:
        asked = {
            name: graph.products[name]
            for name in kernel.nodes
            if name in graph.products and name not in pieces
        }
        if not asked:
            continue
        wanted = frozenset(asked.values())
        got = kernel.product_datatype
        if got in wanted:
            got = _find_odd_operand(kernel, wanted, _list_datatypes(kernel, graph))
        if got:
            wrong.append(("+".join(asked), "/".join(sorted(wanted)), got))
    return wrong


def find_wrong_attentions(attentions: Sequence[Kernel], graph: Graph) -> list[Wrong]:
    """Return each fused attention one of whose operands is in another datatype than asked.

    A mask keeps a datatype of its own.
    """
    wrong = []
    for kernel in attentions:
        for softmax in graph.attentions:
            gemms = graph.attention_products.get(softmax, ())
            asked = frozenset(graph.products[name] for name in gemms)
            if not asked or softmax not in kernel.nodes:
                continue
            got = kernel.attention_datatype
            if {got} == asked:
                got = _find_odd_operand(kernel, asked, graph.mask_datatypes[softmax])
            if got:
                wrong.append((softmax, "/".join(sorted(asked)), got))
    return wrong


def find_untraced(kernels: Sequence[Kernel], graph: Graph, replaced: str | None) -> list[str]:
    """Return what keeps the GEMMs of the graph from being each the work of exactly one kernel.

    A fused attention does those of its own; compilers compute GEMMs of weights alone beforehand.

    Args:
        kernels: those that launch.
        graph: what they were compiled from.
        replaced: the beginning of the names of nodes that a plugin stands for.
    """
    named: dict[str, int] = dict.fromkeys(graph.products, 0)
    for kernel in kernels:
        if kernel.is_product or kernel.is_attention:
            for name in set(kernel.nodes).intersection(named):
                named[name] += 1
    missing = [
        name
        for name, count in named.items()
        if not count
        and name not in graph.constants
        and not (replaced and name.startswith(replaced))
    ]
    repeated = [name for name, count in named.items() if count > 1]
    found = []
    if missing:
        found.append(
            f"{len(missing)} of {len(named)} GEMMs of the graph are the work of no kernel in the "
            f"list: {shorten(missing)}"
        )
    if repeated:
        found.append(
            f"{len(repeated)} GEMMs of the graph are the work of several kernels: "
            f"{shorten(repeated)}"
        )
    return found


def find_extra(kernels: Sequence[Kernel], graph: Graph) -> list[str]:
    """Return what is to be said of kernels that do no work of the graph, if they are many.

    Every kernel does some node's work that no other does, but for the halves of a split
    LayerNormalization, the paddings of a GEMM's operands, and a few copies.
    """
    gemms = [kernel for kernel in kernels if kernel.is_product or kernel.is_attention]
    seen = Counter(name for kernel in gemms for name in set(kernel.nodes))
    extra = []
    for kernel in kernels:
        if kernel.is_product or kernel.is_attention:
            continue  # find_untraced counts these
        nodes = set(kernel.nodes) & graph.node_datatypes.keys()
        helps = all(seen[name] <= _count_helpers(name, graph) for name in nodes)
        if not nodes or not (helps or any(not seen[name] for name in nodes)):
            extra.append(kernel.name)
        seen.update(nodes)
    allowed = _COPIES + _COPIES_A_TAIL * max(1, graph.tails)
    if len(extra) <= allowed:
        return []
    return [
        f"{len(extra)} of {len(kernels)} kernels do no work of the graph, where at most {allowed} "
        f"copies are usual: {shorten(extra)}"
    ]


def find_opaque(kernels: Sequence[Kernel]) -> list[str]:
    """Return what is to be said of compiled regions that the inspector does not open."""
    names = [kernel.name for kernel in kernels if kernel.is_opaque]
    if not names:
        return []
    shown = shorten([name[:60] for name in names])
    return [
        f"this version's inspector does not open {len(names)} compiled regions, so that nothing is "
        f"known of the kernels inside: {shown}"
    ]


def shorten(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _count_helpers(name: str, graph: Graph) -> int:
    """Return how many kernels may have named a node before one that only helps with it."""
    if name in graph.products:
        return _PADDINGS
    return 1 if name in graph.norms else 0


def _list_datatypes(kernel: Kernel, graph: Graph) -> frozenset[str]:
    """Return the datatypes that a kernel's nodes have in the graph, its GEMMs aside."""
    others = (graph.node_datatypes.get(n, frozenset()) for n in kernel.nodes
              if n not in graph.products)  # fmt: skip
    return frozenset[str]().union(*others)


def _find_odd_operand(kernel: Kernel, wanted: frozenset[str], allowed: frozenset[str]) -> str:
    """Return the datatype of a matrix that should not be there, empty without one."""
    matrices = [t.datatype for t in (*kernel.inputs, *kernel.constants) if t.is_matrix]
    odd = [kind for kind in matrices if kind not in wanted | allowed]
    if odd:
        return f"{odd[0]} operands"
    inputs = [tensor.datatype for tensor in kernel.inputs if not tensor.is_scalar]
    return "" if not inputs or wanted.intersection(inputs) else f"{inputs[0]} operands"
