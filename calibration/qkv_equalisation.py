"""Evening out the columns of the projections in front of attention, which share one scale.

Shapes: `C` channels, `H` heads, `D` channels a head (`C = H * D`), `N` tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.qdq_insertion import list_products
from calibration.rescaling import (
    Exponents,
    Magnitudes,
    balance,
    floor_log2,
    read_constant,
    room_above,
    room_below,
    scale_initializer,
)
from calibration.scheme import Scheme
from export.passes.attention import find_attention, only_reader

_TO_HEADS, _TO_KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


class _Columns(NamedTuple):
    """The part of a product's weight that becomes queries, keys or values."""

    product: ir.Node
    part: slice
    heads: tuple[int, int]  # (H, D)


class _Attention(NamedTuple):
    query: _Columns
    key: _Columns
    value: _Columns
    output: ir.Node


class QkvEqualisationPass(ir.passes.InPlacePass):
    """Evens out the largest magnitudes of query, key and value columns, by powers of two.

    1. `softmax((x Wq)(x Wk)^T)` -> `softmax((x Wq 2^-a)(x Wk 2^a)^T)`, a an exponent a channel,
       after which the two columns differ by a factor of two at most: the same logits, and the
       smallest common range. It also undoes that the queries alone carry 1/sqrt(D).
    2. `(P x Wv) Wo` -> `(P x Wv 2^b) (2^-b Wo)`, b a channel's, which brings a value column up, or
       down, to the largest query or key column, as close as a power of two does.

    Values may take the whole range because the scale is set by queries and keys already; that
    shrinks the rows of the output projection more often than it makes them grow. INT8 leaves that
    one float. FP8 does not, but rounds it and its activation relative to each value, so that
    uneven rows cost it no digits down to 2**-14 of the largest.

    Refuses: attention any of whose three products the scheme leaves float or scales by channel;
    anything but reshapes and transpositions between projection and attention, such as rotary
    positions, which mix two channels, or biases; a context that more than one output projection
    reads; exponents that would cost digits in FP16 or overflow there (see `rescaling`).

    Source: cross-layer equalisation, Data-Free Quantization (arXiv 1906.04721, section 4.1).

    Args:
        scheme: what is quantised, and how.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with evened-out columns; unmodified where they are even."""
        self._graph = model.graph
        products = {
            node for node, rule in list_products(model.graph, self.scheme)
            if rule.weights == "tensor"
        }  # fmt: skip
        modified = False
        for node in model.graph:
            attention = _match(node)
            if attention is not None and {part.product for part in attention[:3]} <= products:
                modified |= self._equalise(attention)
        return ir.passes.PassResult(model, modified)

    def _equalise(self, attention: _Attention) -> bool:
        query, key, value = (_largest(part) for part in attention[:3])
        output = _weight(attention.output)
        rows = np.abs(output).max(axis=1)  # (C,)
        terms = len(_weight(attention.query.product))
        lower = np.minimum(room_below(key), room_above(query, terms))
        upper = np.minimum(room_below(query), room_above(key, terms))
        a = np.clip(balance(query, key), -lower, upper)
        common = max((query * np.exp2(-a)).max(), (key * np.exp2(a)).max())
        lower = np.minimum(room_below(value), room_above(rows, terms))
        upper = np.minimum(room_above(value, terms), room_below(rows))
        b = np.clip(_raise(value, common), -lower, upper)
        if not a.any() and not b.any():
            return False
        for part, exponents in zip(attention[:3], (-a, a, b), strict=True):
            width = _weight(part.product).shape[1]
            columns = np.zeros(width, np.int64)
            columns[part.part] = exponents
            scale_initializer(self._graph, part.product, 1, columns)
        scale_initializer(self._graph, attention.output, 1, -b[:, None])
        return True


def _raise(largest: Magnitudes, common: float) -> Exponents:
    """Return the exponents that bring magnitudes closest below a common one, 0 for those of 0."""
    known = (largest > 0) & (common > 0)
    ratio = np.divide(common, largest, out=np.ones_like(largest), where=known)
    return floor_log2(ratio)


def _match(softmax: ir.Node) -> _Attention | None:
    """Return the attention around a softmax where only views lie in it."""
    found = find_attention(softmax)
    if found is None:
        return None
    query, key, value = (
        _find_columns(operand, perm)
        for operand, perm in zip(found.operands, (_TO_HEADS, _TO_KEYS, _TO_HEADS), strict=True)
    )
    output = _find_output(found.context)
    if query is None or key is None or value is None or output is None:
        return None
    channels = query.heads[0] * query.heads[1]
    if not query.heads == key.heads == value.heads or len(_weight(output)) != channels:
        return None
    return _Attention(query, key, value, output)


def _find_columns(value: ir.Value | None, perm: list[int]) -> _Columns | None:
    """Return the columns that a transposed `(B, N, H, D)` view of a projection shows."""
    transpose = _producer(value, "Transpose")
    reshape = _producer(transpose.inputs[0], "Reshape") if transpose else None
    if transpose is None or reshape is None or _perm(transpose) != perm:
        return None
    shape = reshape.outputs[0].shape
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[2:]):
        return None
    heads = (int(str(shape[2])), int(str(shape[3])))
    source = reshape.inputs[0]
    split, part = _producer(source, "Split"), slice(None)
    if split is not None and source is not None:
        width = heads[0] * heads[1]
        index = split.outputs.index(source)
        part, source = slice(index * width, (index + 1) * width), split.inputs[0]
        if not _is_even(split, width):
            return None
    product = _producer(source, "MatMul")
    weight = read_constant(product.inputs[1]) if product else None
    if product is None or weight is None or weight.ndim != 2:
        return None
    is_whole = weight[:, part].shape[1] == heads[0] * heads[1]
    return _Columns(product, part, heads) if is_whole else None


def _is_even(split: ir.Node, width: int) -> bool:
    shapes = [value.shape for value in split.outputs]
    return all(shape is not None and shape[-1] == width for shape in shapes)


def _find_output(context: ir.Node) -> ir.Node | None:
    """Return the only product that reads a context `(B, H, N, D)` as `(B, N, C)`."""
    transpose = only_reader(context.outputs[0])
    if transpose is None or transpose.op_type != "Transpose" or _perm(transpose) != _TO_HEADS:
        return None
    reshape = only_reader(transpose.outputs[0])
    output = only_reader(reshape.outputs[0]) if reshape and reshape.op_type == "Reshape" else None
    if output is None or output.op_type != "MatMul" or reshape is None:
        return None
    weight = read_constant(output.inputs[1])
    is_read = output.inputs[0] is reshape.outputs[0]
    return output if is_read and weight is not None and weight.ndim == 2 else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node of a type that gives a value to one reader alone, None if it is another."""
    node = value.producer() if value is not None else None
    if value is None or node is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return node if node.op_type == op_type else None


def _perm(transpose: ir.Node) -> list[int]:
    attribute = transpose.attributes.get("perm")
    return [] if attribute is None else list(attribute.as_ints())


def _weight(product: ir.Node) -> NDArray[np.float64]:
    weight = read_constant(product.inputs[1])
    assert weight is not None
    return weight


def _largest(columns: _Columns) -> Magnitudes:
    """Return the columns' largest magnitudes, `(C,)`."""
    largest: Magnitudes = np.abs(_weight(columns.product)[:, columns.part]).max(axis=0)
    return largest
