"""Is a graph one that TensorRT documents it takes? Checked node by node, before a compiler sees it.

Compilers accept more than their documents say, until another version does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.trt_operators import OPERATORS, UINT8_PARTNERS, Operator

# Initializers above this many elements are weights, whose values no rule asks for.
_WEIGHT_ELEMENTS = 4096
_UINT8 = "uint8"
_ZERO_POINT = 2  # of QuantizeLinear and DequantizeLinear
_ADVICE = "export the model again with this version's python -m export.build"


class Violation(NamedTuple):
    """A node that TensorRT's documents do not allow, and why."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        """Return one line that names the node."""
        return f"node '{self.node}' ({self.operator}): {self.reason}"


def check_hygiene(onnx_path: str | Path) -> None:
    """Accept a graph that TensorRT documents it takes.

    Raises:
        ValueError: if a node is not allowed; the message names the first one.
    """
    found = list_violations(onnx_path)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"'{onnx_path}' is no graph for TensorRT: {found[0]}{more}; {_ADVICE}")


def list_violations(onnx_path: str | Path) -> list[Violation]:
    """Return the nodes of an ONNX file that TensorRT's documents do not allow, in order.

    1. uint8 inputs feed nothing but Casts to FP32 or FP16.
    2. uint8 outputs leave a Cast from FP16, and nothing reads them.
    3. Every operator, with every datatype, attribute and constant, is allowed by
       `export.trt_operators`.
    """
    return list(_Checker(_load(onnx_path)).check())


def _load(onnx_path: str | Path) -> onnx.ModelProto:
    """Return the model with inferred types; its weights keep their type and lose their values."""
    model = onnx.load(onnx_path, load_external_data=False)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) > _WEIGHT_ELEMENTS:
            for values in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
                tensor.ClearField(values)
            tensor.data_location = TensorProto.DEFAULT
    return onnx.shape_inference.infer_shapes(model)


class _Checker:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        typed = (*graph.value_info, *graph.input, *graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in typed}
        types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.types = {name: _type_name(kind) for name, kind in types.items()}
        self.inputs = {value.name for value in graph.input} - self.constants.keys()
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output}

    def check(self) -> Iterable[Violation]:
        for node in self.graph.node:
            for reason in self._list_reasons(node):
                yield Violation(node.name or f"giving {node.output[0]}", node.op_type, reason)

    def _list_reasons(self, node: onnx.NodeProto) -> Iterable[str]:
        if misused := list(self._check_uint8(node)):
            yield from misused
            return
        known = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if known is None:
            yield "the table of facts about TensorRT (export/trt_operators.py) says nothing of it"
            return
        yield from self._check_types(node, known)
        yield from _check_attributes(node, known)
        yield from self._check_constants(node, known)
        outputs = sum(bool(name) for name in node.output)
        if known.max_outputs is not None and outputs > known.max_outputs:
            yield f"expected at most {known.max_outputs} output, got {outputs}"

    def _check_uint8(self, node: onnx.NodeProto) -> Iterable[str]:
        for name in node.input:
            if self._type(name) != _UINT8:
                continue
            if node.op_type != "Cast":
                yield f"reads uint8 '{name}', which may feed a Cast alone"
            elif self._type(node.output[0]) not in UINT8_PARTNERS:
                yield (
                    f"casts uint8 '{name}' to {self._type(node.output[0])}, expected FP32 or FP16 "
                    "and another Cast behind"
                )
            elif name not in self.inputs:
                yield f"reads uint8 '{name}' inside the graph, expected uint8 at its edges alone"
        for name in node.output:
            if self._type(name) != _UINT8:
                continue
            if node.op_type != "Cast" or self._type(node.input[0]) != "float16":
                yield (
                    f"gives uint8 '{name}' of {self._type(node.input[0])}, expected labels to "
                    "leave by a Cast to FP16 and one from FP16 to uint8"
                )
            elif name not in self.outputs:
                yield f"gives uint8 '{name}' inside the graph, expected uint8 at its edges alone"

    def _check_types(self, node: onnx.NodeProto, known: Operator) -> Iterable[str]:
        for names, own, what in (
            (node.input, known.inputs, "input"),
            (node.output, known.outputs, "output"),
        ):
            for index, name in enumerate(names):
                allowed, got = own.get(index, known.types), self._type(name)
                if name and got not in allowed:
                    expected = " or ".join(sorted(allowed))
                    yield f"{what} {index} '{name}' is {got}, expected {expected}"

    def _check_constants(self, node: onnx.NodeProto, known: Operator) -> Iterable[str]:
        for index in known.constants:
            name = node.input[index] if index < len(node.input) else ""
            if not name:
                continue
            tensor = self.constants.get(name)
            if tensor is None:
                yield f"input {index} '{name}' is computed, expected a constant"
            elif (
                index == _ZERO_POINT
                and "Linear" in node.op_type
                and numpy_helper.to_array(tensor).astype(np.float32).any()
            ):
                yield f"zero point '{name}' is not zero"

    def _type(self, name: str) -> str:
        return self.types.get(name, "of unknown type")


def _check_attributes(node: onnx.NodeProto, known: Operator) -> Iterable[str]:
    for attribute in node.attribute:
        name = attribute.name
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if name not in known.attributes:
            yield f"nothing is known of attribute {name}={value!r}"
            continue
        allowed = known.attributes[name]
        if allowed is not None and value not in allowed:
            expected = " or ".join(map(repr, allowed))
            yield f"attribute {name} is {value!r}, expected {expected}"


def _type_name(kind: int) -> str:
    """Return how the table calls a datatype, such as `float32` or `float8e4m3fn`."""
    name = str(TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "undefined": "of unknown type"}.get(name, name)
