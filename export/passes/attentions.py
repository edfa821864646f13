"""Where a graph's attentions are: a Softmax between two MatMuls, whatever casts stand between.

Shapes: `B` batch, `H` heads, `M` queries, `N` keys, `D` width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

# These change a value's datatype, and nothing else about it.
CASTS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


class Attention(NamedTuple):
    """The nodes of one attention, and its operands ahead of any cast."""

    logits: ir.Node  # MatMul, (B, H, M, N)
    softmax: ir.Node
    context: ir.Node  # MatMul, (B, H, M, D)
    query: ir.Value  # (B, H, M, D)
    key: ir.Value  # (B, H, D, N)
    value: ir.Value  # (B, H, N, D)


def find_attentions(graph: ir.Graph) -> list[Attention]:
    """Return the attentions of a graph, in its order."""
    return [found for node in graph if (found := _find_attention(node)) is not None]


def _find_attention(softmax: ir.Node) -> Attention | None:
    if softmax.op_type != "Softmax":
        return None
    logits, context = source_of(softmax.inputs[0]).producer(), _find_reader(softmax.outputs[0])
    if logits is None or logits.op_type != "MatMul" or context is None:
        return None
    query, key, value = map(source_of, (*logits.inputs, context.inputs[1]))
    return Attention(logits, softmax, context, query, key, value)


def source_of(value: ir.Value | None) -> ir.Value:
    """Return the value that another is a cast of, or itself."""
    assert value is not None
    producer = value.producer()
    while producer is not None and producer.op_type in CASTS and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def half_source(value: ir.Value | None) -> ir.Value | None:
    """Return the FP16 value that a MatMul reads, widened or not; None where it reads another."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "Cast":
        source = producer.inputs[0]
        if source is not None and source.dtype == ir.DataType.FLOAT16:
            return half_source(source)
    is_quantized = producer is not None and producer.op_type == "DequantizeLinear"
    if value is None or value.dtype != ir.DataType.FLOAT16 or is_quantized:
        return None
    return value


def _find_reader(value: ir.Value) -> ir.Node | None:
    """Return the MatMul whose left operand the value is, cast or not."""
    for node, index in value.uses():
        if node.op_type == "MatMul" and index == 0:
            return node
        if node.op_type in CASTS and (found := _find_reader(node.outputs[0])) is not None:
            return found
    return None
