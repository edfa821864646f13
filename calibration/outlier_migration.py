"""Moving outliers from a norm's channels into the weights behind it.

Shapes: `C` channels of a norm, `D` output channels of a linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.qdq_insertion import list_products
from calibration.rescaling import (
    balance,
    read_constant,
    room_above,
    room_below,
    scale_initializer,
)
from calibration.scheme import Scheme

_SCALE, _SHIFT = 1, 2  # inputs of LayerNormalization
# A channel that never moves, or that no weight reads, still counts as this share of the largest.
_SMALLEST_SHARE = 2.0**-12


class OutlierMigrationPass(ir.passes.InPlacePass):
    """Divides a LayerNorm's channels by powers of two and multiplies them into what reads it.

    1. `n * scale + shift` -> `n * (scale 2^-e) + shift 2^-e`, e an exponent a channel; the norm
       gets a scale and a shift of its own, which others may share.
    2. weight `(C, D)` of every linear that reads it -> `2^e` times its rows.

    Refuses: a norm that anything but the first operand of a MatMul with a weight reads; exponents
    of another number than the channels; a norm that has been rewritten, which its scale's name
    tells.

    Source: SmoothQuant (arXiv 2211.10438), equations 3 and 4; rounded to powers of two.

    Args:
        exponents: by the name of the norm's output, `(C,)`, as `find_exponents` gives them.
    """

    def __init__(self, exponents: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.exponents = exponents

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with its outliers in the weights; unmodified where they are."""
        modified = False
        for norm in model.graph:
            exponents = np.array(self.exponents.get(str(norm.outputs[0].name), ()), np.int64)
            linears = _find_linears(norm)
            scale = read_constant(norm.inputs[_SCALE]) if linears else None
            if scale is None or scale.shape != exponents.shape or not exponents.any():
                continue
            name = _own_name(norm, _SCALE)
            if norm.inputs[_SCALE].name == name:  # type: ignore[union-attr]  # read just above
                continue
            for index in range(_SCALE, len(norm.inputs)):
                own_name = _own_name(norm, index)
                scale_initializer(model.graph, norm, index, -exponents, own_name)
            for linear in linears:
                scale_initializer(model.graph, linear, 1, exponents[:, None])
            modified = True
        return ir.passes.PassResult(model, modified)


def list_migratable(graph: ir.Graph, scheme: Scheme) -> list[str]:
    """Return the names of norms' outputs that only quantised products read, in order."""
    products = {node for node, _ in list_products(graph, scheme)}
    names = []
    for node in graph:
        linears = _find_linears(node)
        if linears and set(linears) <= products:
            names.append(str(node.outputs[0].name))
    return names


def find_exponents(
    graph: ir.Graph, channel_amax: Mapping[str, NDArray[np.floating]]
) -> dict[str, tuple[int, ...]]:
    """Return by how many powers of two each channel's outliers are best moved, by norm's output.

    The exponent is the logarithm of `sqrt(amax of the activation / amax of the weights' rows)`,
    after which both have equal magnitudes in every channel. The median is taken out: a factor that
    all channels share changes no quantised value.

    Args:
        graph: float.
        channel_amax: largest magnitudes `(C,)` of the outputs of norms that linears read.

    Source: SmoothQuant (arXiv 2211.10438), equation 4 with alpha 0.5.
    """
    found = {}
    for norm in graph:
        name = str(norm.outputs[0].name)
        linears = _find_linears(norm) if name in channel_amax else []
        if linears:
            found[name] = _balance_rows(channel_amax[name].astype(np.float64), linears)
    return found


def _balance_rows(activation: NDArray[np.float64], linears: Sequence[ir.Node]) -> tuple[int, ...]:
    weights = [read_constant(linear.inputs[1]) for linear in linears]
    rows = np.max([np.abs(w).max(axis=1) for w in weights if w is not None], axis=0)  # (C,)
    rows = np.maximum(rows, rows.max() * _SMALLEST_SHARE)
    activation = np.maximum(activation, activation.max() * _SMALLEST_SHARE)
    exponents = balance(activation, rows)
    exponents -= int(np.median(exponents))
    lower = np.minimum(room_below(rows), room_above(activation, len(rows)))
    upper = np.minimum(room_below(activation), room_above(rows, len(rows)))
    return tuple(map(int, np.clip(exponents, -lower, upper)))


def _find_linears(norm: ir.Node) -> list[ir.Node]:
    """Return the products of a norm's output and weights, none if anything else reads it too."""
    value = norm.outputs[0]
    if norm.op_type != "LayerNormalization" or value.is_graph_output():
        return []
    if any(read_constant(operand) is None for operand in norm.inputs[_SCALE:]):
        return []
    linears = []
    for node, index in value.uses():
        weight = read_constant(node.inputs[1]) if node.op_type == "MatMul" and index == 0 else None
        if weight is None or weight.ndim != 2:
            return []
        linears.append(node)
    return linears


def _own_name(norm: ir.Node, index: int) -> str:
    return f"{norm.name}/migrated_{'scale' if index == _SCALE else 'shift'}"
