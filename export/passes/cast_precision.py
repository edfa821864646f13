"""Precision as part of the graph: float32 to float16 or bfloat16."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

# Inputs that the ONNX standard fixes to float32, whatever the data: Resize's roi and scales.
_FIXED_INPUTS = {"Resize": {1, 2}}


class CastPrecisionPass(ir.passes.InPlacePass):
    """Casts the graph to a 16-bit type; inputs and outputs keep theirs.

    1. float32 initializers -> 16 bit, rounded to nearest.
    2. Cast(to=float32) -> Cast(to=16 bit).
    3. float32 graph output -> Cast(to=float32) behind its 16-bit producer.
    4. A node whose name matches `keep_float32` keeps float32, between two Casts.

    Refuses: an initializer that is finite in float32 and not in 16 bit.
    """

    def __init__(self, dtype: ir.DataType, keep_float32: Iterable[str] = ()) -> None:
        super().__init__()
        if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            raise ValueError(f"precision must be FLOAT16 or BFLOAT16, got {dtype.name}")
        self.dtype = dtype
        self.kept = [re.compile(pattern) for pattern in keep_float32]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model, cast; unmodified where nothing is float32."""
        graph = model.graph
        floats = [v for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
        outputs = list(graph.outputs)
        produced = [v for node in graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
        if all(v in outputs or self._is_kept(v.producer()) for v in produced):
            return ir.passes.PassResult(model, modified=False)
        self._graph = graph
        self._copies: dict[tuple[str, ir.DataType], ir.Value] = {}
        for node in list(graph):
            self._cast_node(node)
        for index, output in enumerate(outputs):
            if output.dtype == self.dtype:
                graph.outputs[index] = self._restore_output(output)
        for value in floats:
            if not value.uses() and not value.is_graph_output():
                graph.initializers.pop(value.name)
        return ir.passes.PassResult(model, modified=True)

    def _is_kept(self, node: ir.Node | None) -> bool:
        name = (node.name or "") if node else ""
        return any(pattern.search(name) for pattern in self.kept)

    def _cast_node(self, node: ir.Node) -> None:
        wanted = ir.DataType.FLOAT if self._is_kept(node) else self.dtype
        fixed = _FIXED_INPUTS.get(node.op_type, set())
        for index, value in enumerate(node.inputs):
            is_float = value is not None and value.dtype in (ir.DataType.FLOAT, self.dtype)
            if is_float and index not in fixed and value.dtype != wanted:
                node.replace_input_with(index, self._convert(value, wanted, node))
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                # A new type object: clones of a graph share theirs.
                value.type = ir.TensorType(wanted)

    def _convert(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """Return the value in another type: a rounded initializer, or a Cast."""
        key = (value.name or "", dtype)
        if key in self._copies:
            return self._copies[key]
        if value.const_value is not None and value.producer() is None:
            copy = self._round_initializer(value)
        else:
            cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}/cast")
            copy = cast.outputs[0]
            copy.name, copy.shape = f"{value.name}/{dtype.name}", value.shape
            copy.type = ir.TensorType(dtype)
            self._graph.insert_before(before, cast)
        self._copies[key] = copy
        return copy

    def _round_initializer(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            rounded = array.astype(self.dtype.numpy())
        if np.isfinite(array).all() and not np.isfinite(rounded.astype(np.float32)).all():
            raise ValueError(
                f"initializer '{value.name}' reaches {np.abs(array).max():.3g}, beyond "
                f"{self.dtype.name}'s range; build with --bf16 or --fp32"
            )
        name = f"{value.name}/{self.dtype.name}"
        tensor = ir.Tensor(rounded, dtype=self.dtype, name=name)
        type_ = ir.TensorType(self.dtype)
        copy = ir.Value(name=name, shape=value.shape, type=type_, const_value=tensor)
        self._graph.initializers.add(copy)
        return copy

    def _restore_output(self, output: ir.Value) -> ir.Value:
        name = output.name
        output.name = f"{name}/{self.dtype.name}"
        cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT}, name=f"{name}/cast")
        restored = cast.outputs[0]
        restored.name, restored.shape = name, output.shape
        restored.type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(cast)
        return restored
