"""FP32 sums inside attention, asked for by casts that every compiler drops again."""

from __future__ import annotations

import onnx_ir as ir

from export.passes.attention import Attention, find_attention

_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class AttentionSumsPass(ir.passes.InPlacePass):
    """Makes the MatMuls of 16-bit attentions float32 ones.

    1. `q`, `k` -> Cast(float32), `q @ k` in float32 -> Cast(16 bit) -> Softmax.
    2. `softmax`, `v` -> Cast(float32), `softmax @ v` in float32 -> Cast(16 bit).
    3. With `fused` False, the logits stay float32, and so does what the softmax gives.

    TensorRT-RTX makes the same fused kernel of 1 and 2 as of the 16-bit graph, but for its sums:
    without the casts it sums FP16 attentions in FP16. Logits that reach the softmax in float32, or
    probabilities that leave it so, keep it from fusing.

    It does the same behind Q/DQ, and of BF16 attentions, which it sums in FP32 anyway.

    Refuses: an attention that is not between 16-bit values, or whose logits or softmax anything
    else reads.

    Args:
        fused: leave the logits and the probabilities in 16 bits, without which nothing fuses.
    """

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with float32 MatMuls in its attentions; unmodified where they are."""
        self._graph = model.graph
        found = [find_attention(node) for node in model.graph if node.op_type == "Softmax"]
        chosen = [attention for attention in found if attention and _is_low(attention)]
        for logits, softmax, context in chosen:
            self._widen_operand(logits, 0)
            self._widen_operand(logits, 1)
            self._widen_operand(context, 1)
            if self.fused:
                self._widen_operand(context, 0)
                self._narrow_result(logits)
            else:
                for node in (logits, softmax):
                    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            self._narrow_result(context)
        return ir.passes.PassResult(model, modified=bool(chosen))

    def _widen_operand(self, node: ir.Node, index: int) -> None:
        value = node.inputs[index]
        assert value is not None
        cast = _cast(value, ir.DataType.FLOAT, f"{node.name}/operand_{index}")
        self._graph.insert_before(node, cast)
        node.replace_input_with(index, cast.outputs[0])

    def _narrow_result(self, node: ir.Node) -> None:
        value, uses = node.outputs[0], list(node.outputs[0].uses())
        assert value.dtype is not None
        low, value.type = value.dtype, ir.TensorType(ir.DataType.FLOAT)
        cast = _cast(value, low, f"{node.name}/result")
        self._graph.insert_after(node, cast)
        for user, index in uses:
            user.replace_input_with(index, cast.outputs[0])


def _is_low(attention: Attention) -> bool:
    operands = (*attention.logits.inputs, *attention.context.inputs)
    return all(value is not None and value.dtype in _LOW for value in operands)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": dtype}, name=name)
    result = cast.outputs[0]
    result.name, result.shape, result.type = name, value.shape, ir.TensorType(dtype)
    return cast
