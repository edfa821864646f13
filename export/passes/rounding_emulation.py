"""A float32 graph that rounds as bfloat16 does, for machines without its kernels."""

from __future__ import annotations

import onnx_ir as ir


class RoundingEmulationPass(ir.passes.InPlacePass):
    """Computes a bfloat16 graph in float32, rounding every result to bfloat16.

    1. bfloat16 initializer -> the same values in float32.
    2. node with a bfloat16 output -> float32 output -> Cast(bfloat16) -> Cast(float32).
    3. Cast(to=bfloat16) -> Cast(to=float32), rounded as in 2.

    ONNX Runtime's CPU provider has no bfloat16 arithmetic (only Cast), so a bfloat16 graph is
    checked in this form. Sums inside one node are float32, as tensor cores keep them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model in float32; unmodified where nothing is bfloat16."""
        graph, low = model.graph, ir.DataType.BFLOAT16
        constants = [v for v in graph.initializers.values() if v.dtype == low]
        nodes = [n for n in graph if any(v.dtype == low for v in n.outputs) and not _rounds(n)]
        for value in constants:
            assert value.const_value is not None
            widened = value.const_value.numpy().astype("float32")
            value.const_value = ir.Tensor(widened, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
        for node in nodes:
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
            for value in node.outputs:
                if value.dtype == low:
                    self._round(graph, node, value)
        return ir.passes.PassResult(model, modified=bool(constants or nodes))

    def _round(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        uses = list(value.uses())
        down = ir.node("Cast", [value], {"to": ir.DataType.BFLOAT16}, name=f"{value.name}/round")
        up = ir.node(
            "Cast", [down.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{value.name}/widen"
        )
        for cast, dtype in ((down, ir.DataType.BFLOAT16), (up, ir.DataType.FLOAT)):
            cast.outputs[0].name = f"{cast.name}/value"
            cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(dtype)
        graph.insert_after(node, (down, up))
        for user, index in uses:
            user.replace_input_with(index, up.outputs[0])
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = up.outputs[0]


def _rounds(node: ir.Node) -> bool:
    return node.op_type == "Cast" and (node.name or "").endswith("/round")
