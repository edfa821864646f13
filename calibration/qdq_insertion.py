"""Q/DQ in the graph: the only form of INT8 and FP8 that every current compiler takes.

Shapes: `C` input channels, `D` output channels of a product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.scheme import Granularity, LayerRule, Scheme

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class QdqInsertionPass(ir.passes.InPlacePass):
    """Quantises products of an activation and a weight.

    1. `x` -> QuantizeLinear -> DequantizeLinear, once for all of its quantised readers.
    2. weight `(C, D)` -> the low-precision initializer -> DequantizeLinear, with one scale or one
       an output channel; the float weight is gone unless something else reads it.
    3. Scales have the type of the activation; biases and everything else stay as they are.

    Refuses: a product without a range for its activation; floats other than FP32 and FP16.

    Args:
        scheme: what is quantised, and how.
        limits: the largest magnitude of each activation, by the name of its tensor.
        kept: names of nodes that stay float although the scheme has a rule for them.
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
        self._graph = model.graph
        self._activations: dict[str, ir.Value] = {}
        for node, rule in found:
            self._quantise(node, rule)
        return ir.passes.PassResult(model, modified=bool(found))

    def _quantise(self, node: ir.Node, rule: LayerRule) -> None:
        activation, weight = node.inputs[0], node.inputs[1]
        assert activation is not None
        assert weight is not None
        if activation.dtype not in _FLOATS:
            raise ValueError(f"node '{node.name}': expected FP32 or FP16, got {activation.dtype}")
        node.replace_input_with(0, self._quantise_activation(activation, rule, node))
        node.replace_input_with(1, self._quantise_weight(weight, rule.weights, node))
        if not weight.uses() and weight.name:
            self._graph.initializers.pop(weight.name)

    def _quantise_activation(self, value: ir.Value, rule: LayerRule, node: ir.Node) -> ir.Value:
        name = str(value.name)
        if name not in self._activations:
            limit = self.limits.get(name) if rule.limit is None else rule.limit
            if limit is None:
                raise ValueError(
                    f"node '{node.name}': no range for its activation '{name}'; calibrate again"
                )
            dtype = value.dtype or ir.DataType.FLOAT
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


def list_products(graph: ir.Graph, scheme: Scheme) -> list[tuple[ir.Node, LayerRule]]:
    """Return the products that a scheme quantises and that are still float, in order."""
    found = []
    for node in graph:
        rule = scheme.find_rule(node)
        weight = node.inputs[1] if rule else None
        if rule and weight is not None and weight.const_value is not None:
            found.append((node, rule))
    return found


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
