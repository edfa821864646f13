"""A 16-bit graph in float32, nothing rounded."""

from __future__ import annotations

import onnx_ir as ir

_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class WideningPass(ir.passes.InPlacePass):
    """Computes a 16-bit graph in float32, so that no value is rounded or overflows.

    1. 16-bit initializer -> the same values in float32.
    2. Cast(to=16 bit) -> Cast(to=float32).
    3. 16-bit value -> float32.

    Weights keep the rounding that they have, Q/DQ stay. The graph that is shipped stays as it is:
    this is for a copy of it that is read inside.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model in float32; unmodified where nothing has 16 bits."""
        constants = [v for v in model.graph.initializers.values() if v.dtype in _LOW]
        values = [v for node in model.graph for v in node.outputs if v.dtype in _LOW]
        for value in constants:
            assert value.const_value is not None
            widened = value.const_value.numpy().astype("float32")
            value.const_value = ir.Tensor(widened, name=value.name)
        for node in model.graph:
            target = node.attributes.get("to")
            if node.op_type == "Cast" and target is not None and target.as_int() in _LOW:
                node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        for value in (*constants, *values):
            value.type = ir.TensorType(ir.DataType.FLOAT)
        return ir.passes.PassResult(model, modified=bool(constants or values))
