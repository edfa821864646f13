"""What an ONNX graph asks of a compiler: its attentions, and the datatype of every product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto

# Initializers above this many elements are weights; shape inference never reads their values.
_WEIGHT_ELEMENTS = 4096
_PRODUCTS = ("MatMul", "Gemm", "Conv")
# What may stand between a softmax and its product, or a weight and its, without meaning a thing.
_TRANSPARENT = frozenset({"Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"})
_RESHAPING = _TRANSPARENT | {"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Split", "Slice"}
# What may stand between QK^T and its softmax: a scale, a mask.
_SCALING = _TRANSPARENT | {"Mul", "Div", "Add"}
# As the builders spell them.
_DATATYPE_NAMES: dict[int, str] = {
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
class Graph:
    """What the audit compares an engine with.

    `attentions` names the softmax (or Attention) node of each; `products` maps each MatMul, Gemm
    and Conv node to the datatype asked for, spelled as the builders do; `metadata` is the file's.
    `attention_products` maps a softmax to the products before and behind it, which a fused
    attention has no kernels for.
    """

    attentions: tuple[str, ...]
    products: dict[str, str]
    metadata: dict[str, str]
    attention_products: dict[str, tuple[str, ...]] = field(default_factory=dict)


class _Edges:
    """Producers, consumers, element types and ranks of the graph's tensors."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producer = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        typed = (*graph.value_info, *graph.input, *graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in typed}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def find_readers(self, node: onnx.NodeProto) -> list[str]:
        """Return the MatMuls whose left operand a node's output is, straight or cast."""
        found = []
        for user in self.consumers.get(node.output[0], ()):
            if user.op_type == "MatMul" and user.input[0] == node.output[0]:
                found.append(user.name)
            elif user.op_type in _TRANSPARENT:
                found += self.find_readers(user)
        return found

    def find_logits(self, softmax: onnx.NodeProto) -> list[str]:
        """Return the MatMul whose product a softmax takes, scaled, masked or cast."""
        node = self.producer.get(softmax.input[0])
        while node is not None and node.op_type in _SCALING:
            node = self.producer.get(node.input[0])
        return [node.name] if node is not None and node.op_type == "MatMul" else []

    def asked_datatype(self, node: onnx.NodeProto) -> str:
        """Return the datatype a product is asked in: its operands' before any dequantisation."""
        stored = [self._stored_type(name) for name in node.input[:2]]
        if None not in stored:
            return _DATATYPE_NAMES.get(stored[-1] or 0, "None")
        return _DATATYPE_NAMES.get(self.types.get(node.input[0], 0), "None")

    def _stored_type(self, name: str) -> int | None:
        """Return the type behind the DequantizeLinear that gives a tensor; None without one."""
        node = self.producer.get(name)
        while node is not None and node.op_type in _RESHAPING:
            if node.op_type == "DequantizeLinear":
                return self.types.get(node.input[0])
            node = self.producer.get(node.input[0])
        return None


def read_graph(onnx_path: str | Path) -> Graph:
    """Return what the ONNX file asks for; its weights are not read into memory twice.

    Raises:
        ValueError: if the file is no ONNX model, or holds nodes without names, which no engine's
            kernels could be traced back to.
    """
    model = load_without_weights(onnx_path)
    nodes = model.graph.node
    products = [node for node in nodes if node.op_type in _PRODUCTS]
    softmaxes = [node for node in nodes if node.op_type in ("Softmax", "Attention")]
    nameless = next((node for node in (*products, *softmaxes) if not node.name), None)
    if nameless is not None:
        raise ValueError(
            f"'{onnx_path}': the {nameless.op_type} that gives '{nameless.output[0]}' has no name, "
            "so kernels cannot be traced to it; export the model with node names"
        )
    edges = _Edges(model.graph)
    attentions = [node for node in softmaxes if _is_attention(node, edges)]
    return Graph(
        attentions=tuple(node.name for node in attentions),
        products={node.name: edges.asked_datatype(node) for node in products},
        metadata={entry.key: entry.value for entry in model.metadata_props},
        attention_products={
            node.name: (*edges.find_logits(node), *edges.find_readers(node))
            for node in attentions
            if node.op_type == "Softmax"
        },
    )


def load_without_weights(onnx_path: str | Path) -> onnx.ModelProto:
    """Return the model with inferred types, its large initializers turned into inputs.

    Shape inference copies the whole model; without its weights that costs next to nothing.

    Raises:
        ValueError: if the file is no ONNX model.
    """
    path = Path(onnx_path)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf raises its own types, which differ between versions
        raise ValueError(f"'{path}' is no ONNX model: {error}") from error
    if not model.graph.node:
        raise ValueError(f"'{path}' is no ONNX model: expected nodes, got none")
    kept = []
    for tensor in model.graph.initializer:
        if _element_count(tensor.dims) > _WEIGHT_ELEMENTS or tensor.external_data:
            declared = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            model.graph.input.append(declared)
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return onnx.shape_inference.infer_shapes(model)


def _is_attention(node: onnx.NodeProto, edges: _Edges) -> bool:
    """Return whether a node normalises weights that a product then applies to values.

    The softmax over classes is none: its output is transposed before it mixes masks.
    """
    if node.op_type == "Attention":
        return True
    rank = edges.ranks.get(node.input[0], 0)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return axis in (-1, rank - 1) and bool(edges.find_readers(node))


def _element_count(dims: Iterable[int]) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
