"""How images enter a graph and labels leave it, so that every version of TensorRT takes both."""

from __future__ import annotations

import onnx_ir as ir

_UINT8 = ir.DataType.UINT8
_HALF = ir.DataType.FLOAT16
# TensorRT's own description of its datatypes: uint8 becomes, and is made of, these two alone.
_PARTNERS = (ir.DataType.FLOAT, _HALF)


class Uint8EdgesPass(ir.passes.InPlacePass):
    """Lets uint8 tensors meet nothing but Casts from and to FP32 or FP16.

    1. `Shape(x)` of a uint8 graph input -> `Shape(Cast(x))`, of the Cast that is there anyway.
    2. uint8 -> Cast(to=T) -> uint8 -> Cast(to=FP16) -> Cast(to=T); T is neither FP32 nor FP16.
    3. T -> Cast(to=uint8) -> T -> Cast(to=FP16) -> Cast(to=uint8); T is neither.

    FP16 holds every whole number up to 2,048, so both detours are exact for 0 to 255. Labels of
    another type (int32 above 256 classes) stay as they are. No kernel is added: the compiler makes
    one kernel of both Casts and what stands before them.

    Source: `DataType::kUINT8` in NVIDIA's NvInferRuntimeBase.h, TensorRT 10.7.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with its uint8 edges mended; unmodified where nothing is to mend."""
        graph = model.graph
        shapes = [self._read_behind_cast(graph, value) for value in graph.inputs]
        casts = [self._go_through_half(graph, node) for node in list(graph)]
        return ir.passes.PassResult(model, modified=any(shapes) or any(casts))

    def _read_behind_cast(self, graph: ir.Graph, image: ir.Value) -> bool:
        """Move the `Shape` nodes of a uint8 input behind its Cast; return whether there are any."""
        if image.dtype != _UINT8:
            return False
        users = [use.node for use in image.uses()]
        shapes = [node for node in users if node.op_type == "Shape"]
        cast = next((node for node in users if node.op_type == "Cast"), None)
        if cast is None or not shapes:
            return False
        graph.remove(cast)
        graph.insert_before(graph[0], cast)
        for shape in shapes:
            shape.replace_input_with(0, cast.outputs[0])
        return True

    def _go_through_half(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Put an FP16 Cast between uint8 and another type; return whether that was needed."""
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is None:
            return False
        types = (source.dtype, node.outputs[0].dtype)
        if _UINT8 not in types or any(dtype in _PARTNERS for dtype in types):
            return False
        half = ir.node("Cast", [source], {"to": _HALF}, name=f"{node.name}/half")
        value = half.outputs[0]
        value.name, value.shape, value.type = half.name, source.shape, ir.TensorType(_HALF)
        graph.insert_before(node, half)
        node.replace_input_with(0, value)
        return True
