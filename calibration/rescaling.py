"""Powers of two that move between the factors of a product, and what FP16 allows of them.

A power of two changes no mantissa, so a weight, what it gives and every sum on the way to it keep
their digits. Only FP16's narrow exponent sets limits: what falls below 2**-14 loses digits, half a
step of 2**-24 at most. Scaled so that the largest of a channel stays at 2**-9 or above, that is
2**-16 of it, a sixteenth of what rounding to FP16 does to it anyway.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Exponents = NDArray[np.int64]
Magnitudes = NDArray[np.float64]

_LOWEST_LOG2 = -9
_HIGHEST_LOG2 = 15  # FP16 ends at 65504


def read_constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    """Return a floating-point initializer's values, None of anything else."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if value.const_value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    return value.const_value.numpy().astype(np.float64)


def floor_log2(values: Magnitudes) -> Exponents:
    """Return the exponents of values above 0, exactly."""
    return np.frexp(values)[1].astype(np.int64) - 1


def balance(first: Magnitudes, second: Magnitudes) -> Exponents:
    """Return `e` such that `first * 2**-e` over `second * 2**e` lies in [1/2, 2).

    Of two that lie there already it is 0, to the last bit: a second time changes nothing. Where
    one of the two is 0 it is 0 too.
    """
    known = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=known)
    return (floor_log2(ratio) + 1) // 2


def room_below(largest: Magnitudes) -> Exponents:
    """Return by how many powers of two channels of these magnitudes may shrink."""
    return np.maximum(floor_log2(np.maximum(largest, 2.0**-60)) - _LOWEST_LOG2, 0)


def room_above(largest: Magnitudes, terms: int) -> Exponents:
    """Return by how many powers of two they may grow, so that as many terms' sum stays finite."""
    bits = int(terms).bit_length()
    return np.maximum(_HIGHEST_LOG2 - bits - 1 - floor_log2(np.maximum(largest, 2.0**-60)), 0)


def scale_initializer(
    graph: ir.Graph, node: ir.Node, index: int, exponents: Exponents, own_name: str | None = None
) -> None:
    """Multiply an operand of a node, and no other node's, by powers of two.

    Args:
        graph: that the node is in.
        node: what reads the operand.
        index: of the operand, an initializer.
        exponents: of shape `(C, 1)` or `(C,)`, as they broadcast.
        own_name: of the new initializer; None keeps the name unless something else reads it.
    """
    value = node.inputs[index]
    assert value is not None
    array = read_constant(value)
    assert array is not None
    assert value.const_value is not None
    dtype = value.const_value.dtype
    scaled = (array * np.exp2(exponents)).astype(dtype.numpy())
    is_shared = len(value.uses()) > 1 or value.is_graph_output()
    name = own_name or (f"{node.name}/scaled" if is_shared else str(value.name))
    tensor = ir.Tensor(scaled, dtype=dtype, name=name)
    if name == value.name:
        value.const_value = tensor
        return
    own = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.initializers.add(own)
    node.replace_input_with(index, own)
    if not value.uses() and value.name and not value.is_graph_output():
        graph.initializers.pop(value.name)
