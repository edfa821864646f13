"""Precision as part of the graph: float32 to float16 or bfloat16."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

# Inputs that the ONNX standard fixes to float32, whatever the data: Resize's roi and scales.
_FIXED_INPUTS = {"Resize": {1, 2}}
_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class CastPrecisionPass(ir.passes.InPlacePass):
    """Casts the graph to a 16-bit type; inputs and outputs keep theirs.

    1. float32 initializers -> 16 bit, rounded to nearest.
    2. Cast(to=float32) -> Cast(to=16 bit).
    3. float32 graph output -> Cast(to=float32) behind its 16-bit producer.
    4. A node whose name matches a pattern of `exceptions` gets that type instead, between Casts.

    Refuses: an initializer that is finite in float32 and not in 16 bit.
    """

    def __init__(
        self, dtype: ir.DataType, exceptions: Mapping[str, ir.DataType] | None = None
    ) -> None:
        super().__init__()
        if dtype not in _LOW:
            raise ValueError(f"precision must be FLOAT16 or BFLOAT16, got {dtype.name}")
        self.dtype = dtype
        self.exceptions = {re.compile(key): value for key, value in (exceptions or {}).items()}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model, cast; unmodified where nothing is float32."""
        graph = model.graph
        floats = [v for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
        outputs = list(graph.outputs)
        produced = [v for node in graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
        if all(v in outputs or self._wanted(v.producer()) == v.dtype for v in produced):
            return ir.passes.PassResult(model, modified=False)
        self._graph = graph
        self._copies: dict[tuple[str, ir.DataType], ir.Value] = {}
        for node in list(graph):
            self._cast_node(node)
        for index, output in enumerate(outputs):
            if output.dtype in _LOW:
                graph.outputs[index] = self._restore_output(output)
        for value in floats:
            if value.name and not value.uses() and not value.is_graph_output():
                graph.initializers.pop(value.name)
        return ir.passes.PassResult(model, modified=True)

    def _wanted(self, node: ir.Node | None) -> ir.DataType:
        name = (node.name or "") if node else ""
        found = (dtype for pattern, dtype in self.exceptions.items() if pattern.search(name))
        return next(found, self.dtype)

    def _cast_node(self, node: ir.Node) -> None:
        wanted = self._wanted(node)
        fixed = _FIXED_INPUTS.get(node.op_type, set())
        for index, value in enumerate(node.inputs):
            if value is None or index in fixed or value.dtype not in (ir.DataType.FLOAT, *_LOW):
                continue
            if value.dtype != wanted:
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
            copy = self._round_initializer(value, dtype)
        else:
            cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}/cast")
            copy = cast.outputs[0]
            copy.name, copy.shape = f"{value.name}/{dtype.name}", value.shape
            copy.type = ir.TensorType(dtype)
            self._graph.insert_before(before, cast)
        self._copies[key] = copy
        return copy

    def _round_initializer(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            rounded = array.astype(dtype.numpy())
        if np.isfinite(array).all() and not np.isfinite(rounded.astype(np.float32)).all():
            raise ValueError(
                f"initializer '{value.name}' reaches {np.abs(array).max():.3g}, beyond "
                f"{dtype.name}'s range; build with {self._suggest_wider(value)}"
            )
        name = f"{value.name}/{dtype.name}"
        tensor = ir.Tensor(rounded, dtype=dtype, name=name)
        copy = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
        self._graph.initializers.add(copy)
        return copy

    def _suggest_wider(self, value: ir.Value) -> str:
        is_in_head = str(value.name).startswith(("head.", "tail."))  # FP16 in --bf16 too
        has_bf16 = self.dtype == ir.DataType.FLOAT16 and not is_in_head
        return "--bf16 or --fp32" if has_bf16 else "--fp32"

    def _restore_output(self, output: ir.Value) -> ir.Value:
        name = output.name
        assert output.dtype is not None
        output.name = f"{name}/{output.dtype.name}"
        cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT}, name=f"{name}/cast")
        restored = cast.outputs[0]
        restored.name, restored.shape = name, output.shape
        restored.type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(cast)
        return restored
