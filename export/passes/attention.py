"""The nodes of an attention: two MatMuls and a softmax between them, with casts or without."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class Attention(NamedTuple):
    """The nodes of one attention: QK^T, its softmax, and the MatMul with V."""

    logits: ir.Node
    softmax: ir.Node
    context: ir.Node

    @property
    def operands(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Q, K and V split into heads and transposed, as they are before they are cast."""
        query, key, value = *self.logits.inputs, self.context.inputs[1]
        assert query is not None
        assert key is not None
        assert value is not None
        return skip_casts(query), skip_casts(key), skip_casts(value)


def find_attention(softmax: ir.Node) -> Attention | None:
    """Return the attention around a softmax, None where there is none that compilers fuse.

    They fuse it where the softmax alone reads QK^T and one MatMul alone reads the softmax.
    """
    if softmax.op_type != "Softmax" or softmax.inputs[0] is None:
        return None
    logits = skip_casts(softmax.inputs[0]).producer()
    if logits is None or logits.op_type != "MatMul" or only_reader(logits.outputs[0]) != softmax:
        return None
    context = only_reader(softmax.outputs[0])
    if context is None or context.op_type != "MatMul" or context.inputs[0] is None:
        return None
    if skip_casts(context.inputs[0]) is not softmax.outputs[0]:
        return None
    return Attention(logits, softmax, context)


def find_attentions(graph: ir.Graph) -> list[Attention]:
    """Return the attentions of a graph, in its order."""
    return [found for node in graph if (found := find_attention(node)) is not None]


def is_half(attention: Attention) -> bool:
    """Return whether a fused kernel may sum in FP16: all that it reads and its logits are FP16."""
    logits, operands = attention.softmax.inputs[0], (*attention.logits.inputs,
                                                     attention.context.inputs[1])  # fmt: skip
    assert logits is not None
    return logits.dtype == ir.DataType.FLOAT16 and all(map(half_source, operands))


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


def skip_casts(value: ir.Value) -> ir.Value:
    """Return the value that casts between float types made this one of."""
    node = value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        if node.inputs[0].dtype not in _FLOATS:
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, behind a cast or not; None if others read it too."""
    users = [node for node, _ in value.uses()]
    if len(users) != 1 or value.is_graph_output():
        return None
    return only_reader(users[0].outputs[0]) if users[0].op_type == "Cast" else users[0]
