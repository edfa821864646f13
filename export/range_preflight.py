"""How near the values of a 16-bit graph come to the end of their datatype, on real images.

A copy of the graph is computed in float32 without rounding, so that a value that its datatype
cannot hold is seen as it is, and so are the layers behind it. Each layer gives its smallest and
its largest value alone: two numbers, whatever its size.

Shapes: `n` images, `N` keys of an attention.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.check_session import open_session
from export.manifest import ValueRange
from export.passes.attention import (
    Attention,
    find_attentions,
    half_source,
    is_half,
    skip_casts,
)
from export.passes.widening import WideningPass
from export.verify import ParityError

WARNING_BITS = 2.0
# The largest finite value of a datatype, and where rounding to infinity begins.
LIMITS = {"FLOAT16": 65504.0, "BFLOAT16": 2.0**128 * (1 - 2.0**-8)}
_OVERFLOWS = {"FLOAT16": 65520.0, "BFLOAT16": 2.0**128 * (1 - 2.0**-9)}
ATTENTION_SUM = "attention sum"
ATTENTION_BOUND = "attention sum, bound"
_OTHER = "other"
_KINDS_SHOWN = 6
# These give the values that they take.
_COPIES = frozenset({"Reshape", "Transpose", "Split", "Slice", "Concat", "Identity", "Expand",
                     "Gather", "Pad", "Squeeze", "Unsqueeze"})  # fmt: skip
_KINDS = (
    (re.compile(r"^encoder/\d+/(fc1/|Gelu)"), "MLP hidden"),
    (re.compile(r"^head/.*(/linear1/|/Relu)"), "decoder hidden"),
    (re.compile(r"^head/projections/\d+/linear/"), "head projection"),
    (re.compile(r"^(patch_embed|encoder/\d+)/Add(_\d+)?$"), "residual"),
    (re.compile(r"/classifier/linear/"), "class logits"),
    (re.compile(r"^tail/"), "tail"),
    (re.compile(r"^patch_embed/(Cast|Sub)"), "pixels"),
)
# Class logits with their bias, which puts columns that stand for no class at -6e4 on purpose.
_PADDED = re.compile(r"/classifier/linear/Add$")
_IN_FLOAT16_BESIDE_BFLOAT16 = re.compile(r"^(head|tail)/")


class _Tap(NamedTuple):
    """A value whose smallest and largest are read, and what it stands for."""

    value: ir.Value
    layer: str
    kind: str
    datatype: str
    factor: float = 1.0


def measure_ranges(path: Path, images: NDArray[np.uint8], batch: int) -> tuple[ValueRange, ...]:
    """Return the largest magnitude of each layer that gives 16-bit values, in graph order.

    An attention whose sums an engine may keep in FP16 gives two more: the sum of `exp(logit - row
    maximum) * value` that a fused kernel holds before it divides, and its bound, `N` times the
    largest value: kernels that meet the row's maximum late hold something between.

    Args:
        path: the ONNX file.
        images: uint8 `(n, H, W, 3)`, `n` a multiple of `batch`, which is what a call takes.
    """
    taps: list[_Tap] = []
    names: list[str] = []

    def rewrite(model: ir.Model) -> None:
        taps.extend(_list_taps(model.graph))
        WideningPass()(model)
        names.extend(_expose_extremes(model.graph, [tap.value for tap in taps]))

    session = open_session(path, rewrite)
    if not taps:
        return ()
    largest = np.zeros(len(taps))
    for start in range(0, len(images), batch):
        found = session.run(names, {"image": images[start : start + batch]})
        extremes = np.array([float(value) for value in found]).reshape(-1, 2)
        largest = np.maximum(largest, np.abs(extremes).max(axis=1))  # keeps NaN
    found = zip(taps, largest.tolist(), strict=True)
    return tuple(_describe(tap, tap.factor * value) for tap, value in found)


def summarize_ranges(ranges: Sequence[ValueRange]) -> tuple[ValueRange, ...]:
    """Return the layer of least headroom of each kind, kinds with less first."""
    nearest = {found.kind: found for found in sorted(ranges, key=_bits, reverse=True)}
    return tuple(sorted(nearest.values(), key=_bits))


def describe_ranges(ranges: Sequence[ValueRange]) -> str:
    """Return one line on the kinds of least headroom and the layer that has least."""
    kinds = summarize_ranges(ranges)
    least = ", ".join(f"{found.kind} {_bits(found):.1f}" for found in kinds[:_KINDS_SHOWN])
    return f"{least}, the other kinds more; least in {kinds[0].layer}"


def check_ranges(
    ranges: Sequence[ValueRange], precision: str, half_sums: bool = False
) -> tuple[str, ...]:
    """Return a warning for each kind of value that comes near the end of its datatype.

    Args:
        half_sums: whether attention is summed in FP16 as built, not only where an engine chooses.

    Raises:
        ParityError: if a value is beyond it; the message names the first such layer.
    """
    for found in ranges:
        is_stored = found.kind not in (ATTENTION_SUM, ATTENTION_BOUND)
        is_held = is_stored or (half_sums and found.kind == ATTENTION_SUM)
        if is_held and not found.largest < _OVERFLOWS[found.datatype]:
            raise ParityError(
                f"{precision} overflows in {_name_layer(found)}: it reaches {found.largest:.3g}, "
                f"{found.datatype} ends at {LIMITS[found.datatype]:.5g}; "
                f"{_advise(found, precision)}"
            )
    near = (found for found in summarize_ranges(ranges) if _bits(found) < WARNING_BITS)
    return tuple(
        f"{_name_layer(found)} reaches {found.largest:.3g}, {_bits(found):.1f} bits below the end "
        f"of {found.datatype}; {_advise(found, precision)}"
        for found in near
    )


def _name_layer(found: ValueRange) -> str:
    return f"'{found.layer}'" if found.kind == _OTHER else f"'{found.layer}' ({found.kind})"


def _advise(found: ValueRange, precision: str) -> str:
    if found.kind in (ATTENTION_SUM, ATTENTION_BOUND):
        return "keep to --attention fp32-sums and to targets that are audited to sum in FP32"
    rescaling = "scale the weights that make it down by a power of two and those that read it up"
    has_range = precision != "bf16" and not _IN_FLOAT16_BESIDE_BFLOAT16.search(found.layer)
    return f"build with {'--bf16' if has_range else '--fp32'}, or {rescaling}"


def _bits(found: ValueRange) -> float:
    return math.inf if found.headroom_bits is None else found.headroom_bits


def _describe(tap: _Tap, largest: float) -> ValueRange:
    bits = math.log2(LIMITS[tap.datatype] / largest) if 0 < largest < math.inf else None
    return ValueRange(tap.kind, tap.layer, largest, tap.datatype, bits)


def _list_taps(graph: ir.Graph) -> list[_Tap]:
    """Return the 16-bit values that are no copies of others, and the attentions' sums."""
    attentions = {attention.context: attention for attention in find_attentions(graph)}
    kinds = dict(_name_parts(attentions.values()))
    taps = []
    for node in list(graph):
        for value in node.outputs:
            name = value.dtype.name if value.dtype is not None else ""
            is_read = value in kinds or not (node.op_type in _COPIES or _counts(node))
            if name in LIMITS and is_read and not _PADDED.search(str(node.name)):
                kind = kinds.get(value) or _find_kind(_made_by(node))
                taps.append(_Tap(value, str(node.name), kind, name))
        if node in attentions:
            taps.extend(_tap_sum(graph, attentions[node]))
    return taps


def _counts(node: ir.Node) -> bool:
    """Say whether a node makes floats of whole numbers: pixels, or labels on their way out."""
    source = node.inputs[0].dtype if node.op_type == "Cast" and node.inputs[0] else None
    return source is not None and source.is_integer()


def _name_parts(attentions: Iterable[Attention]) -> Iterable[tuple[ir.Value, str]]:
    """Yield the values of attentions that have a kind of their own."""
    for attention in attentions:
        yield from zip(attention.operands, ("query", "key", "value"), strict=True)
        yield attention.logits.outputs[0], "attention logits"
        yield attention.context.outputs[0], "attention output"
        for node, kind in ((attention.logits, "logits"), (attention.context, "output")):
            for user, _ in node.outputs[0].uses():
                if user.op_type == "Cast":  # where it is summed in float32
                    yield user.outputs[0], f"attention {kind}"


def _made_by(node: ir.Node) -> ir.Node:
    """Return the node whose values a Cast stores, or the node itself."""
    source = skip_casts(node.outputs[0]).producer()
    return node if source is None else source


def _find_kind(node: ir.Node) -> str:
    name = str(node.name)
    for pattern, kind in _KINDS:
        if pattern.search(name):
            return kind
    if node.op_type in ("MatMul", "Add") and any(_gives_masks(value) for value in node.inputs):
        return "mask logits"
    return _OTHER


def _gives_masks(value: ir.Value | None) -> bool:
    """Say whether a value is the query side of mask logits, or mask logits themselves."""
    producer = value.producer() if value is not None else None
    if producer is None or not str(producer.name).startswith("head/"):
        return False
    if "/mask_query/" in str(producer.name):
        return True
    return producer.op_type in ("MatMul", "Add") and _find_kind(producer) == "mask logits"


def _tap_sum(graph: ir.Graph, attention: Attention) -> Iterable[_Tap]:
    """Yield what an attention's kernel sums in FP16 if it is not told otherwise."""
    value, name = half_source(attention.context.inputs[1]), str(attention.context.name)
    if value is None or not is_half(attention):
        return  # kernels for other datatypes sum in FP32
    peak_axes = ir.Value(
        name=f"{name}/axes", const_value=ir.tensor([-1], name=f"{name}/axes"),
        shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64),
    )  # fmt: skip
    graph.initializers.add(peak_axes)
    peak = ir.node("ReduceMax", [attention.softmax.outputs[0], peak_axes], name=f"{name}/peak")
    total = ir.node("Div", [attention.context.outputs[0], peak.outputs[0]], name=f"{name}/sum")
    for node, mark in ((peak, "peak"), (total, "sum")):
        node.outputs[0].name = f"{name}/{mark}"
    graph.insert_after(attention.context, (peak, total))
    yield _Tap(total.outputs[0], name, ATTENTION_SUM, "FLOAT16")
    keys = value.shape[-2] if value.shape is not None else None
    if isinstance(keys, int):
        yield _Tap(value, name, ATTENTION_BOUND, "FLOAT16", float(keys))


def _expose_extremes(graph: ir.Graph, values: Sequence[ir.Value]) -> list[str]:
    """Make each value's smallest and largest an output; return their names, two a value."""
    names: list[str] = []
    for value in values:
        producer = value.producer()
        assert producer is not None
        for kind in ("ReduceMin", "ReduceMax"):
            node = ir.node(kind, [value], {"keepdims": 0}, name=f"{value.name}/{kind}/{len(names)}")
            extreme = node.outputs[0]
            extreme.name = node.name  # counted, since a value may be read twice
            extreme.shape, extreme.type = ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
            graph.insert_after(producer, node)
            graph.outputs.append(extreme)
            names.append(str(extreme.name))
    return names
