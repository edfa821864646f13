"""Where a precision variant of a graph leaves its FP32 form: the error of every layer's output.

Nodes are named after their modules whatever the precision (`export.passes.node_names`), so the
outputs of nodes of one name are compared: the reference's on ONNX Runtime's CPU provider with its
optimisations off, every node as it is written, the variant's there too, or as OpenVINO or a
TensorRT engine computes them, as far as their compilers leave them (`benchmarks.tapped_graphs`).

Quantisation moves powers of two between the factors of a product (`calibration.rescaling`), which
changes no digit and would look like an error of one layer that the next one undoes. In INT8 and
FP8 whole channels that are off by powers of two are therefore scaled back first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.tapped_graphs import Floats, TappedGraph, open_tapped
from calibration.scheme import SCHEMES
from engines.target import Target

# Of outputs held at once: an attention's weights are 50 MB each in ViT-B.
_BYTES_A_RUN = 256e6


@dataclass(frozen=True)
class LayerDivergence:
    """A node and the relative RMS of its output's difference, over all images."""

    name: str
    op_type: str
    relative_rms: float


def measure_divergence(
    reference: Path,
    candidate: Path,
    precision: str,
    images: Sequence[NDArray[np.uint8]],
    progress: bool = True,
    target: Target = Target.ORT,
) -> tuple[LayerDivergence, ...]:
    """Return the error of each node that both graphs have, in the reference's order.

    Args:
        reference: FP32 ONNX file.
        candidate: ONNX file of the same model in another precision.
        precision: of the candidate.
        images: batches uint8 `(B, H, W, 3)` that both graphs take.
        progress: show a bar.
        target: what computes the candidate; on others than `ort` nodes may be missing.

    Raises:
        ValueError: if the graphs share no node with a float output, or the target cannot run here
            or gives none of their values.
    """
    with ExitStack() as stack:
        with TemporaryDirectory() as folder:
            first = open_tapped(reference, Target.ORT, Path(folder) / "reference.onnx")
            stack.callback(first.close)
            second = open_tapped(candidate, target, Path(folder) / "candidate.onnx")
            stack.callback(second.close)
        names = [name for name in first.taps if name in second.taps]
        if not names:
            raise ValueError(
                f"'{candidate}' and '{reference}' have no node in common; give artifacts of one "
                "model, built with this version"
            )
        squares = dict.fromkeys(names, (0.0, 0.0))
        rounds = [(batch, part) for part in _split(names, first) for batch in images]
        bar = tqdm(rounds, desc="bisect", unit="run", leave=False, disable=not progress)
        for batch, part in bar:
            expected, found = first.run(part, batch), second.run(part, batch)
            for name, got in found.items():
                if got.shape == expected[name].shape:
                    error, signal = _square(got, expected[name], precision in SCHEMES)
                    squares[name] = squares[name][0] + error, squares[name][1] + signal
    if not any(signal for _, signal in squares.values()):
        raise ValueError(
            f"nothing of '{candidate}' could be read on {target}: its compiler leaves no layer's "
            "values; bisect on another target, ort reads every layer as it is written"
        )
    return tuple(
        LayerDivergence(name, first.taps[name].op_type, (error / signal) ** 0.5)
        for name, (error, signal) in squares.items()
        if signal
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


def find_first(layers: Sequence[LayerDivergence], threshold: float) -> LayerDivergence | None:
    """Return the first layer whose error is above the threshold, or is no number."""
    return next((layer for layer in layers if not layer.relative_rms <= threshold), None)


def _square(got: Floats, expected: Floats, may_be_scaled: bool) -> tuple[float, float]:
    """Return the sums of squares of the difference and of what was expected."""
    true, found = expected.astype(np.float64), got.astype(np.float64)
    errors = [float(((found - true) ** 2).sum())]
    # Which axis the tokens are on depends on the layer; a channel is all that it shares.
    for axis in range(1, true.ndim) if may_be_scaled else ():
        shared = (0, axis)
        overlap = (found * true).sum(shared, keepdims=True)
        power = (true**2).sum(shared, keepdims=True)
        ratio = np.divide(
            overlap, power, out=np.ones_like(power), where=(overlap > 0) & (power > 0)
        )
        back = found * 2.0 ** -np.rint(np.log2(ratio))
        errors.append(float(((back - true) ** 2).sum()))
    return min(errors), float((true**2).sum())
