"""Sums in FP16, as kernels keep them that are not told otherwise: the worst case, written out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.passes.attention import Attention, find_attentions, half_source, is_half

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
# A tensor core adds 16 terms to its accumulator at once, in more digits than that holds. Longer
# sums are emulated in at most 16 steps, for time: attention over 1,024 tokens 64 terms at a time.
_TERMS, _STEPS = 16, 16
_PREFIX = "half_sums/"


def choose_chunk(terms: int) -> int:
    """Return how many terms of a sum of so many are added to an FP16 accumulator at once."""
    return _TERMS * -(-terms // (_TERMS * _STEPS))


class HalfSumsPass(ir.passes.InPlacePass):
    """Sums FP16 attention in FP16, as a fused kernel does that is free to.

    1. Q K^T -> chunks of the head's width, each summed in float32; the sum is rounded to FP16
       whenever one is added.
    2. Softmax, P V -> E = FP16(exp(logits - the row's maximum)), E V as in 1 over the keys, then
       divided by the float32 sum of E: such a kernel divides last, so that large sums overflow.
    3. With `all_gemms`, every other MatMul of FP16 operands as in 1.

    Refuses attention in other datatypes, whose kernels sum in float32. This is for a copy of the
    graph that is shipped, ahead of `RoundingEmulationPass`.

    Args:
        all_gemms: sum every MatMul in FP16, not attention's two alone.
        chunk: terms added at once; None goes by `choose_chunk`.
    """

    def __init__(self, all_gemms: bool = False, chunk: int | None = None) -> None:
        super().__init__()
        self.all_gemms, self.chunk = all_gemms, chunk

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model, its sums written out; unmodified where nothing is summed in FP16."""
        writer = _SumWriter(model.graph, self.chunk)
        nodes = [n for n in model.graph if n.op_type == "MatMul" and not _is_written(n)]
        for attention in find_attentions(model.graph):
            if is_half(attention):
                writer.rewrite_attention(attention)
                nodes.remove(attention.logits)
                nodes.remove(attention.context)
        for node in nodes if self.all_gemms else ():
            writer.rewrite_product(node)
        if writer.count:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(writer.count))


class _SumWriter:
    """Writes nodes ahead of those that they replace."""

    def __init__(self, graph: ir.Graph, chunk: int | None) -> None:
        self.count = 0
        self._graph, self._chunk = graph, chunk
        self._place: ir.Node

    def rewrite_attention(self, attention: Attention) -> None:
        self._place = attention.context
        operands = (*attention.logits.inputs, attention.context.inputs[1])
        query, key, value = map(half_source, operands)
        assert query is not None
        assert key is not None
        assert value is not None
        logits = self._sum(query, key)
        axis = self._constant([-1])
        shifted = self._add("Sub", logits, self._add("ReduceMax", logits, axis))
        weights = self._round(self._add("Exp", shifted))
        total = self._sum(weights, value)
        mass = self._add("ReduceSum", self._add("Cast", weights, to=_FLOAT), axis)
        self._replace(attention.context, self._add("Div", total, mass))

    def rewrite_product(self, node: ir.Node) -> None:
        self._place = node
        left, right = map(half_source, node.inputs)
        if left is not None and right is not None:
            self._replace(node, self._sum(left, right))

    def _sum(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return a product of FP16 values that was summed in FP16, in float32."""
        terms = right.shape[-2] if right.shape is not None else None
        if not isinstance(terms, int):
            raise ValueError(f"sums of '{self._place.name}' cannot be written out: length unknown")
        chunk = self._chunk or choose_chunk(terms)
        sizes = [min(chunk, terms - start) for start in range(0, terms, chunk)]
        pairs = zip(self._split(left, -1, sizes), self._split(right, -2, sizes), strict=True)
        total: ir.Value | None = None
        for parts in pairs:
            part = self._add("MatMul", *parts)
            part = part if total is None else self._add("Add", total, part)
            total = self._add("Cast", self._round(part), to=_FLOAT)
        assert total is not None
        return total

    def _split(self, value: ir.Value, axis: int, sizes: Sequence[int]) -> Sequence[ir.Value]:
        wide = self._add("Cast", value, to=_FLOAT)
        if len(sizes) == 1:
            return [wide]
        lengths = self._constant(sizes)
        node = ir.node("Split", [wide, lengths], {"axis": axis}, num_outputs=len(sizes))
        return self._insert(node, _FLOAT)

    def _round(self, value: ir.Value) -> ir.Value:
        return self._insert(ir.node("Cast", [value], {"to": _HALF}), _HALF)[0]

    def _add(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return self._insert(ir.node(kind, inputs, attributes), _FLOAT)[0]

    def _insert(self, node: ir.Node, dtype: ir.DataType) -> Sequence[ir.Value]:
        node.name = f"{_PREFIX}{self._count()}"
        for index, value in enumerate(node.outputs):
            value.name, value.type = f"{node.name}/{index}", ir.TensorType(dtype)
        self._graph.insert_before(self._place, node)
        return node.outputs

    def _constant(self, values: Sequence[int]) -> ir.Value:
        # A node, since a long initializer is saved beside the graph, where Split cannot look.
        node = ir.node("Constant", [], {"value_ints": list(values)})
        return self._insert(node, ir.DataType.INT64)[0]

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        """Make what reads a node's output read a float32 result, rounded if that was FP16."""
        old = node.outputs[0]
        new = self._round(result) if old.dtype == _HALF else result
        new.shape = old.shape
        for user, index in list(old.uses()):
            user.replace_input_with(index, new)
        for index, output in enumerate(self._graph.outputs):
            if output is old:
                self._graph.outputs[index] = new

    def _count(self) -> int:
        self.count += 1
        return self.count


def _is_written(node: ir.Node) -> bool:
    return (node.name or "").startswith(_PREFIX)
