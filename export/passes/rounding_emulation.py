"""A float32 graph that rounds every 16-bit value where the 16-bit graph stores it."""

from __future__ import annotations

import onnx_ir as ir

_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Their type is an attribute, so they give 16 bits whatever type they read.
_TYPED = frozenset({"Cast", "Constant", "ConstantOfShape"})
# Every value that these give is one that they read, or a constant that was rounded before.
_EXACT = frozenset(
    {
        "Abs", "Clip", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu",
        "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip


class RoundingEmulationPass(ir.passes.InPlacePass):
    """Computes a 16-bit graph in float32 and rounds each result to its 16-bit type.

    1. 16-bit initializer -> the same values in float32.
    2. node with a 16-bit output -> float32 output -> Cast(16 bit) -> Cast(float32).
    3. Cast(to=16 bit) -> the same -> Cast(float32).
    4. node that only moves or selects values -> float32 output, which is rounded already.

    ONNX Runtime's CPU provider does not round between the nodes of a float16 graph: it computes
    them in float32 and removes the casts between them, so values that overflow a GPU's float16 stay
    finite. It has no bfloat16 arithmetic at all. It keeps the casts of this pass, because they lose
    digits. One node rounds once: the sums of a MatMul and the inside of a LayerNormalization or a
    Softmax are float32.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model in float32; unmodified where nothing computes in 16 bits."""
        graph = model.graph
        constants = [v for v in graph.initializers.values() if v.dtype in _LOW]
        nodes = [n for n in graph if any(v.dtype in _LOW for v in n.outputs) and not _rounds(n)]
        for value in constants:
            assert value.const_value is not None
            widened = value.const_value.numpy().astype("float32")
            value.const_value = ir.Tensor(widened, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
        for node in nodes:
            for value in node.outputs:
                if value.dtype in _LOW:
                    _round(graph, node, value)
        return ir.passes.PassResult(model, modified=bool(constants or nodes))


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Make all that reads a 16-bit value read it in float32, rounded."""
    low = value.dtype
    assert low is not None
    uses, last, after = list(value.uses()), value, node
    if node.op_type not in _TYPED:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        if node.op_type in _EXACT:
            return
        last = _cast(graph, value, low, "round", after)
        after = last.producer() or node
    wide = _cast(graph, last, ir.DataType.FLOAT, "widen", after)
    wide.name = f"{value.name}/widened"
    for user, index in uses:
        user.replace_input_with(index, wide)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = wide


def _cast(
    graph: ir.Graph, value: ir.Value, dtype: ir.DataType, stem: str, after: ir.Node
) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}/{stem}")
    result = cast.outputs[0]
    result.name, result.shape, result.type = f"{cast.name}/value", value.shape, ir.TensorType(dtype)
    graph.insert_after(after, cast)
    return result


def _rounds(node: ir.Node) -> bool:
    """Return whether a node rounds and everything reads its result in float32 again."""
    value = node.outputs[0]
    return (
        node.op_type in _TYPED
        and not value.is_graph_output()
        and all(
            user.op_type == "Cast" and user.attributes["to"].as_int() == ir.DataType.FLOAT
            for user, _ in value.uses()
        )
    )
