"""Where a precision variant of a graph leaves its FP32 form: the error of every layer's output.

Nodes are named after their modules whatever the precision (`export.passes.node_names`), so the
outputs of nodes of one name are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from export.check_session import open_session
from export.passes import check_passes

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# Of outputs held at once: an attention's weights are 50 MB each in ViT-B.
_BYTES_A_RUN = 256e6
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LayerDivergence:
    """A node and the relative RMS of its output's difference, over all images."""

    name: str
    op_type: str
    relative_rms: float


class TappedGraph(Protocol):
    """A graph that can be read inside."""

    @property
    def taps(self) -> Mapping[str, ir.Node]:
        """Its nodes that give floats, in order, by name."""

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Return what these nodes give for images `(B, H, W, 3)`, as far as it can be read."""

    def close(self) -> None:
        """Free what it holds."""


class WrittenGraph:
    """A copy on ONNX Runtime, its optimizations off; each 16-bit value is read as it is rounded.

    Args:
        path: the ONNX file.
        half_sums: sum attention in FP16 (see `export.passes.half_sums`).
    """

    def __init__(self, path: Path, half_sums: bool = False) -> None:
        self.taps: dict[str, ir.Node] = {}
        self._names: dict[str, str] = {}

        def rewrite(model: ir.Model) -> None:
            outputs = model.graph.outputs
            self.taps = list_taps(model.graph)
            values = [node.outputs[0] for node in self.taps.values()]
            outputs.extend(value for value in values if value not in outputs)
            places = [outputs.index(value) for value in values]
            for check_pass in check_passes(half_sums)[1:]:  # the first exposes scores alone
                check_pass(model)
            # The passes replace an output by its rounded value, in its place.
            names = [str(outputs[place].name) for place in places]
            self._names = dict(zip(self.taps, names, strict=True))

        self._session: Any = open_session(path, rewrite, optimize=False)

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Return what nodes give for images `(B, H, W, 3)`."""
        outputs = self._session.run([self._names[name] for name in names], {"image": images})
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def list_taps(nodes: Sequence[ir.Node] | ir.Graph) -> dict[str, ir.Node]:
    """Return the nodes that can be read, by name: their first output is a float."""
    return {str(n.name): n for n in nodes if n.name and n.outputs[0].dtype in _FLOATS}


def compare_layers(
    reference: TappedGraph,
    candidate: TappedGraph,
    images: Sequence[NDArray[np.uint8]],
    may_be_scaled: bool = False,
    progress: bool = True,
) -> tuple[LayerDivergence, ...]:
    """Return the error of each node that both graphs have, in the reference's order.

    Args:
        images: batches uint8 `(B, H, W, 3)` that both graphs take.
        may_be_scaled: whether powers of two were moved between channels, as quantization does
            (`calibration.rescaling`): it changes no digit, and is scaled back first.
        progress: show a bar.
    """
    names = [name for name in reference.taps if name in candidate.taps]
    squares = dict.fromkeys(names, (0.0, 0.0))
    rounds = [(batch, part) for part in _split(names, reference) for batch in images]
    bar = tqdm(rounds, desc="bisect", unit="run", leave=False, disable=not progress)
    for batch, part in bar:
        expected, found = reference.run(part, batch), candidate.run(part, batch)
        for name, got in found.items():
            if got.shape == expected[name].shape:
                error, signal = _square(got, expected[name], may_be_scaled)
                squares[name] = squares[name][0] + error, squares[name][1] + signal
    return tuple(
        LayerDivergence(name, reference.taps[name].op_type, (error / signal) ** 0.5)
        for name, (error, signal) in squares.items()
        if signal
    )


def find_first(layers: Sequence[LayerDivergence], threshold: float) -> LayerDivergence | None:
    """Return the first layer whose error is above the threshold, or is no number."""
    return next((layer for layer in layers if not layer.relative_rms <= threshold), None)


def describe_worst(layers: Sequence[LayerDivergence]) -> str:
    """Return a clause on the first layer that is not finite, or else on the one that is off most.

    An error passes on to the layers behind it and seldom shrinks, so of the layers that are off by
    nearly as much as the worst the first is named.
    """
    if not layers:
        return "no layer of it could be compared"
    broken = next((layer for layer in layers if not isfinite(layer.relative_rms)), None)
    if broken is not None:
        return f"the first layer that is not finite is '{broken.name}'"
    most = max(layer.relative_rms for layer in layers)
    first = find_first(layers, most / 2) or layers[0]
    return (
        f"the layers that diverge most begin with '{first.name}', off by {first.relative_rms:.1e} "
        f"(relative RMS; {most:.1e} at most behind it)"
    )


def _split(names: Sequence[str], graph: TappedGraph) -> list[list[str]]:
    """Return the names in parts whose outputs fit in memory together."""
    parts: list[list[str]] = []
    held = float("inf")
    for name in names:
        shape = graph.taps[name].outputs[0].shape or ()
        size = 4 * prod(side if isinstance(side, int) else 1 for side in shape)
        if held + size > _BYTES_A_RUN:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return parts


def _square(got: Floats, expected: Floats, may_be_scaled: bool) -> tuple[float, float]:
    """Return the sums of squares of the difference and of what was expected."""
    true, found = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by its error
        errors = [float(((found - true) ** 2).sum())]
        # Which axis the tokens are on depends on the layer; a channel is all that it shares.
        for axis in range(1, true.ndim) if may_be_scaled and np.isfinite(errors[0]) else ():
            shared = (0, axis)
            overlap = (found * true).sum(shared, keepdims=True)
            power = (true**2).sum(shared, keepdims=True)
            ratio = np.divide(
                overlap, power, out=np.ones_like(power), where=(overlap > 0) & (power > 0)
            )
            back = found * 2.0 ** -np.rint(np.log2(ratio))
            errors.append(float(((back - true) ** 2).sum()))
    return min(errors), float((true**2).sum())
