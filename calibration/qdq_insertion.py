"""Q/DQ in the graph: the only form of INT8 and FP8 that every current compiler takes.

Shapes: `C` input channels, `D` output channels of a product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.scheme import Granularity, LayerRule, Scheme
from export.passes.attention import Attention, find_attention, skip_casts

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_ENCODER_SOFTMAX = re.compile(r"encoder/\d+/(.*/)?Softmax")
# Nothing that a softmax gives is larger.
_LARGEST_WEIGHT = 1.0


class QdqInsertionPass(ir.passes.InPlacePass):
    """Quantises products of an activation and a weight, and attention where the scheme says so.

    1. `x` -> QuantizeLinear -> DequantizeLinear, once for all of its quantised readers.
    2. weight `(C, D)` -> the low-precision initializer -> DequantizeLinear, with one scale or one
       an output channel; the float weight is gone unless something else reads it.
    3. softmax(q @ k) @ v of an encoder block -> q, k and v, behind the head transposes, and the
       softmax's output each through QuantizeLinear -> DequantizeLinear; compilers fuse all four or
       none. q, k and v share the largest of their ranges; the softmax's is 1.
    4. Scales have the type of the activation. A bias `(D,)` of a quantised product becomes
       `(1, .., 1, D)`: ONNX Runtime joins a product and a bias of one dimension to a float Gemm
       before it looks for Q/DQ, and then dequantises the weights in every call.
    5. Everything else stays as it is.

    Refuses: a product or an attention without a range for an activation; floats other than FP32 and
    FP16. An attention whose logits or softmax anything else reads stays float: it never fuses.

    Args:
        scheme: what is quantised, and how.
        limits: the largest magnitude of each activation, by the name of its tensor.
        kept: names of nodes that stay float although the scheme has a rule for them; any of an
            attention's three keeps all of it.
    """

    def __init__(
        self, scheme: Scheme, limits: Mapping[str, float], kept: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.scheme, self.limits, self.kept = scheme, limits, kept

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with Q/DQ; unmodified where every product of the scheme has it."""
        found = [
            (node, rule)
            for node, rule in list_products(model.graph, self.scheme)
            if node.name not in self.kept
        ]
        attentions = [
            attention
            for attention in list_attentions(model.graph, self.scheme)
            if not self.kept.intersection(str(node.name) for node in attention)
        ]
        self._graph = model.graph
        self._activations: dict[str, ir.Value] = {}
        for node, rule in found:
            self._quantise(node, rule)
        for attention in attentions:
            self._quantise_attention(attention)
        return ir.passes.PassResult(model, modified=bool(found or attentions))

    def _quantise(self, node: ir.Node, rule: LayerRule) -> None:
        activation, weight = node.inputs[0], node.inputs[1]
        assert activation is not None
        assert weight is not None
        limit = self._find_limit(activation, node) if rule.limit is None else rule.limit
        node.replace_input_with(0, self._quantise_activation(activation, limit, node))
        node.replace_input_with(1, self._quantise_weight(weight, rule.weights, node))
        self._drop_unused(weight)
        self._widen_bias(node.outputs[0])

    def _widen_bias(self, product: ir.Value) -> None:
        """Give the bias that is added to a product as many dimensions as the product has."""
        uses, rank = tuple(product.uses()), len(product.shape or ())
        if len(uses) != 1 or uses[0].node.op_type != "Add" or rank < 3:
            return
        add, index = uses[0].node, 1 - uses[0].idx
        bias = add.inputs[index]
        if bias is None or bias.const_value is None or len(bias.const_value.shape) != 1:
            return
        name, array = f"{bias.name}/row", bias.const_value.numpy()
        wide = self._graph.initializers.get(name)  # several products may share a bias
        if wide is None:
            dtype = bias.dtype or ir.DataType.FLOAT
            wide = self._add(name, array.reshape((1,) * (rank - 1) + array.shape), dtype)
        add.replace_input_with(index, wide)
        self._drop_unused(bias)

    def _drop_unused(self, constant: ir.Value) -> None:
        if not constant.uses() and constant.name:
            self._graph.initializers.pop(constant.name)

    def _quantise_attention(self, attention: Attention) -> None:
        query, key, value = attention.operands
        weights = attention.softmax.outputs[0]
        limit = max(self._find_limit(x, attention.softmax) for x in attention.operands)
        for node, index, activation, largest in (
            (attention.logits, 0, query, limit),
            (attention.logits, 1, key, limit),
            (attention.context, 0, weights, _LARGEST_WEIGHT),
            (attention.context, 1, value, limit),
        ):
            reader, place = _first_reader(node, index)
            quantised = self._quantise_activation(activation, largest, reader)
            reader.replace_input_with(place, quantised)

    def _find_limit(self, activation: ir.Value, node: ir.Node) -> float:
        limit = self.limits.get(str(activation.name))
        if limit is None:
            raise ValueError(
                f"node '{node.name}': no range for its activation '{activation.name}'; calibrate "
                "again"
            )
        return limit

    def _quantise_activation(self, value: ir.Value, limit: float, node: ir.Node) -> ir.Value:
        """Return the value through Q/DQ, which all readers of the value share."""
        name = str(value.name)
        if value.dtype not in _FLOATS:
            raise ValueError(f"node '{node.name}': expected FP32 or FP16, got {value.dtype}")
        if name not in self._activations:
            dtype = value.dtype
            scale = round_scale(np.array(limit / self.scheme.largest), dtype)
            scale_value = self._add(f"{name}/scale", scale, dtype)
            zero = self._zero_point(name)
            quantised = self._insert(
                "QuantizeLinear", [value, scale_value, zero], f"{name}/quantised",
                self.scheme.dtype, value.shape, node,
            )  # fmt: skip
            self._activations[name] = self._insert(
                "DequantizeLinear", [quantised, scale_value, zero], f"{name}/dequantised", dtype,
                value.shape, node,
            )  # fmt: skip
        return self._activations[name]

    def _quantise_weight(
        self, weight: ir.Value, granularity: Granularity, node: ir.Node
    ) -> ir.Value:
        assert weight.const_value is not None
        name, dtype = str(weight.name), weight.dtype or ir.DataType.FLOAT
        array = weight.const_value.numpy().astype(np.float64)
        axis = 0 if granularity == "channel" else None
        scale = round_scale(np.abs(array).max(axis=axis) / self.scheme.largest, dtype)
        stored = quantise(array, scale, self.scheme)
        inputs = [
            self._add(f"{name}/quantised", stored, self.scheme.dtype),
            self._add(f"{name}/scale", scale, dtype),
        ]
        return self._insert(
            "DequantizeLinear", inputs, f"{name}/dequantised", dtype, weight.shape, node,
            {"axis": 1} if granularity == "channel" else {},
        )  # fmt: skip

    def _zero_point(self, name: str) -> ir.Value:
        """Return the zero that gives QuantizeLinear its type; before opset 21 nothing else does."""
        zero = np.zeros((), self.scheme.dtype.numpy())
        return self._add(f"{name}/zero", zero, self.scheme.dtype)

    def _add(self, name: str, array: NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        tensor = ir.Tensor(array, dtype=dtype, name=name)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor
        )
        self._graph.initializers.add(value)
        return value

    def _insert(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        before: ir.Node,
        attributes: Mapping[str, int] | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        output = node.outputs[0]
        output.name, output.shape, output.type = name, shape, ir.TensorType(dtype)
        self._graph.insert_before(before, node)
        return output


def _first_reader(node: ir.Node, index: int) -> tuple[ir.Node, int]:
    """Return what reads the operand of a node before it is cast: the cast, or the node itself."""
    value = node.inputs[index]
    while value is not None and skip_casts(value) is not value:
        cast = value.producer()
        assert cast is not None
        node, index, value = cast, 0, cast.inputs[0]
    return node, index


def list_products(graph: ir.Graph, scheme: Scheme) -> list[tuple[ir.Node, LayerRule]]:
    """Return the products that a scheme quantises and that are still float, in order."""
    found = []
    for node in graph:
        rule = scheme.find_rule(node)
        weight = node.inputs[1] if rule else None
        if rule and weight is not None and weight.const_value is not None:
            found.append((node, rule))
    return found


def list_attentions(graph: ir.Graph, scheme: Scheme) -> list[Attention]:
    """Return the encoder's attentions that a scheme quantises and that are still float, in order.

    Only those that compilers fuse: QK^T is read by the softmax alone, the softmax by one product.
    """
    if not scheme.attention:
        return []
    encoder = (n for n in graph if _ENCODER_SOFTMAX.fullmatch(n.name or ""))
    return [attention for node in encoder if (attention := find_attention(node))]


def list_activations(graph: ir.Graph, scheme: Scheme) -> list[str]:
    """Return the tensors of a float graph whose ranges a scheme needs, once each, in order."""
    names = [
        str(node.inputs[0].name)
        for node, rule in list_products(graph, scheme)
        if rule.limit is None and node.inputs[0] is not None
    ]
    for attention in list_attentions(graph, scheme):
        names += [str(value.name) for value in attention.operands]
    return list(dict.fromkeys(names))


def round_scale(scale: NDArray[np.float64], dtype: ir.DataType) -> NDArray[np.floating]:
    """Return scales in the graph's type; of what is 0 throughout the scale is 1.

    A scale too small to be rounded well becomes the next one above, so that nothing saturates.
    """
    rounded = np.asarray(np.where(scale == 0, 1.0, scale).astype(dtype.numpy()))
    too_small = rounded.astype(np.float64) < scale * (1 - 2.0**-10)
    return np.where(too_small, np.nextafter(rounded, rounded.dtype.type(1)), rounded)


def quantise(
    array: NDArray[np.float64], scale: NDArray[np.floating], scheme: Scheme
) -> NDArray[np.generic]:
    """Return values over their scales in the scheme's type: nearest, ties to even, saturated."""
    steps = np.clip(array / scale.astype(np.float64), -scheme.largest, scheme.largest)
    if scheme.dtype == ir.DataType.INT8:
        return np.rint(steps).astype(np.int8)
    return steps.astype(np.float32).astype(scheme.dtype.numpy())
