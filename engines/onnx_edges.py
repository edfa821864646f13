"""Tensors of an ONNX graph: who makes and reads them, their types, what attention is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

# What may stand between a weight and its GEMM without a meaning of its own.
_RESHAPING = frozenset({
    "Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear",
    "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Split", "Slice",
})  # fmt: skip
_VIEWS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand"})
_SCALING = frozenset({"Mul", "Div", "Add", "Sub", "Where"})
# Behind these, an axis that was normalized is gone or is another one.
_MIXING = ("Reduce", "Arg", "MatMul", "Gemm", "Conv", "Gather", "Concat", "Resize", "TopK")
_SIXTEEN_BITS = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# As the builders spell them.
DATATYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "Float",
    TensorProto.FLOAT16: "Half",
    TensorProto.BFLOAT16: "BFloat16",
    TensorProto.INT8: "Int8",
    TensorProto.INT4: "Int4",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT4E2M1: "FP4",
    TensorProto.DOUBLE: "Double",
}


@dataclass(frozen=True)
class Attention:
    """One attention of a graph, named by its softmax (or Attention) node.

    `gemms` names QK^T (where it was found) and those that read the softmax; `mask_datatypes` are
    those of what is added to the logits or selects among them.
    """

    softmax: str
    gemms: tuple[str, ...] = ()
    mask_datatypes: frozenset[str] = frozenset()


class Edges:
    """Producers, consumers, element types and shapes of a graph's tensors.

    Args:
        graph: with inferred types.
        weights: names of inputs that are weights.
    """

    def __init__(self, graph: onnx.GraphProto, weights: frozenset[str] = frozenset()) -> None:
        self.producer = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        typed = (*graph.value_info, *graph.input, *graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.shapes = {value.name: _read_shape(value) for value in typed}
        constant = weights | {tensor.name for tensor in graph.initializer}
        self._varying = {value.name for value in graph.input} - constant
        for node in graph.node:  # in topological order, as ONNX demands
            if self._varying.intersection(node.input):
                self._varying.update(node.output)

    def is_constant(self, node: onnx.NodeProto) -> bool:
        """Return whether a node depends on weights alone, so that compilers compute it once."""
        return self._varying.isdisjoint(node.input)

    def datatypes(self, node: onnx.NodeProto) -> frozenset[str]:
        """Return the datatypes of a node's inputs and outputs, numbers of other kinds left out."""
        kinds = (self.types.get(name, 0) for name in (*node.input, *node.output))
        return frozenset(DATATYPE_NAMES[kind] for kind in kinds if kind in DATATYPE_NAMES)

    def find_attention(self, node: onnx.NodeProto) -> Attention | None:
        """Return the attention that a Softmax or Attention node makes, None if it makes none.

        A softmax does if a MatMul sums over the axis that it normalizes, whatever stands between.
        The one over classes does not: its output is transposed before it mixes masks.
        """
        if node.op_type == "Attention":
            return Attention(node.name)
        readers = list(dict.fromkeys(self._find_readers(node)))
        if not readers:
            return None
        path = self._find_logits(node.input[0], frozenset()) or ()
        gemms = [path[-1].name] if path else []
        on_path = {name for step in path for name in step.output} | {node.input[0]}
        masks = {
            DATATYPE_NAMES[self.types[name]]
            for step in path[:-1]
            for name in step.input
            if name not in on_path and self.types.get(name, 0) in DATATYPE_NAMES
        }
        return Attention(node.name, (*gemms, *readers), frozenset(masks))

    def asked_datatype(self, node: onnx.NodeProto) -> str:
        """Return the datatype a GEMM is asked in: its operands' before any dequantization.

        Where all operands are casts of 16-bit values and the result is cast back, those 16 bits
        are asked for: the casts ask for sums in FP32 and nothing else.
        """
        operands = node.input[:2]
        stored = [self._stored_type(name) for name in operands]
        if None not in stored:
            return DATATYPE_NAMES.get(stored[-1] or 0, "None")
        low = self._cast_type(node)
        return DATATYPE_NAMES.get(low or self.types.get(operands[0], 0), "None")

    def asks_float_sums(self, node: onnx.NodeProto) -> bool:
        """Return whether a GEMM of 16-bit values stands between casts to FP32 and back."""
        return self._cast_type(node) is not None

    def _cast_type(self, node: onnx.NodeProto) -> int | None:
        """Return the 16-bit type from which all operands are cast, and the result back to it."""
        found = {self._low_type(name) for name in node.input[:2]}
        low = found.pop()
        return low if not found and low and self._is_cast_to(node.output[0], low) else None

    def _find_readers(self, softmax: onnx.NodeProto) -> Iterator[str]:
        rank = len(self.shapes.get(softmax.input[0]) or ()) or 1
        axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
        pending = [(softmax.output[0], -axis if axis < 0 else rank - axis)]
        seen = set()
        while pending:
            name, offset = pending.pop()
            seen.add(name)
            for user in self.consumers.get(name, ()):
                # A MatMul sums over its left operand's last axis and its right one's last but one.
                if user.op_type == "MatMul" and offset == (1 if user.input[0] == name else 2):
                    yield user.name
                moved = self._follow(user, name, offset)
                if moved is not None and user.output[0] not in seen:
                    pending.append((user.output[0], moved))

    def _follow(self, node: onnx.NodeProto, name: str, offset: int) -> int | None:
        """Return where an axis, counted from the end, goes; None where it is not the same one."""
        before, after = self.shapes.get(name), self.shapes.get(node.output[0])
        if node.op_type == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            rank = len(order) if order else len(before or ())
            order = order or list(range(rank))[::-1]
            return rank - order.index(rank - offset) if rank >= offset else None
        if node.op_type.startswith(_MIXING):
            return None
        if before is None or after is None:
            return offset
        if node.op_type in _VIEWS:
            return offset if before[-offset:] == after[-offset:] else None
        return offset if before == after else None

    def _find_logits(self, name: str, seen: frozenset[str]) -> tuple[onnx.NodeProto, ...] | None:
        """Return the nodes from a softmax's input back to the MatMul behind it, that one last."""
        node = self.producer.get(name)
        if node is None or name in seen:
            return None
        if node.op_type == "MatMul":
            return (node,)
        if node.op_type.startswith(_MIXING) or node.op_type in ("Softmax", "LayerNormalization"):
            return None
        for source in node.input:
            if found := self._find_logits(source, seen | {name}):
                return (node, *found)
        return None

    def _walk_back(self, name: str, through: frozenset[str]) -> Iterator[onnx.NodeProto]:
        node = self.producer.get(name)
        while node is not None and node.op_type in through:
            yield node
            node = self.producer.get(node.input[0])

    def _stored_type(self, name: str) -> int | None:
        """Return the type behind the DequantizeLinear that gives a tensor; None without one."""
        for node in self._walk_back(name, _RESHAPING):
            if node.op_type == "DequantizeLinear":
                return self.types.get(node.input[0])
        return None

    def _low_type(self, name: str) -> int | None:
        """Return the 16-bit type that a tensor in FP32 is cast from, a softmax or views between."""
        if self.types.get(name) != TensorProto.FLOAT:
            return None
        for node in self._walk_back(name, _RESHAPING | _SCALING | {"Softmax"}):
            source: int = self.types.get(node.input[0], 0)
            if node.op_type == "Cast" and source in _SIXTEEN_BITS:
                return source
        return None

    def _is_cast_to(self, name: str, kind: int) -> bool:
        users = self.consumers.get(name, [])
        return bool(users) and all(
            self.types.get(user.output[0]) == kind
            if user.op_type == "Cast"
            else user.op_type in _RESHAPING | _SCALING and self._is_cast_to(user.output[0], kind)
            for user in users
        )


def _read_shape(value: onnx.ValueInfoProto) -> Sequence[int | str] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(size.dim_param or size.dim_value for size in kind.shape.dim)
