"""Where a precision variant of a graph leaves its FP32 form: the error of every layer's output.

Nodes are named after their modules whatever the precision (`export.passes.node_names`), so the
outputs of nodes of one name are compared, both graphs on ONNX Runtime's CPU provider with its
optimisations off: every node as it is written. bfloat16, which that lacks, is emulated.

Quantisation moves powers of two between the factors of a product (`calibration.rescaling`), which
changes no digit and would look like an error of one layer that the next one undoes. In INT8 and
FP8 whole channels that are off by powers of two are therefore scaled back first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.scheme import SCHEMES
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


def measure_divergence(
    reference: Path,
    candidate: Path,
    precision: str,
    images: Sequence[NDArray[np.uint8]],
    progress: bool = True,
) -> tuple[LayerDivergence, ...]:
    """Return the error of each node that both graphs have, in the reference's order.

    Args:
        reference: FP32 ONNX file.
        candidate: ONNX file of the same model in another precision.
        precision: of the candidate.
        images: batches uint8 `(B, H, W, 3)` that both graphs take.

    Raises:
        ValueError: if the graphs share no node with a float output.
    """
    with TemporaryDirectory() as folder:
        first = _TappedGraph(reference, Path(folder) / "reference.onnx")
        second = _TappedGraph(candidate, Path(folder) / "candidate.onnx")
        names = [name for name in first.taps if name in second.taps]
        if not names:
            raise ValueError(
                f"'{candidate}' and '{reference}' have no node in common; give artifacts of one "
                "model, built with this version"
            )
        first.open()
        second.open()
    squares = dict.fromkeys(names, (0.0, 0.0))
    parts = _split(names, first)
    rounds = [(batch, part) for batch in images for part in parts]
    for batch, part in tqdm(rounds, desc="bisect", unit="run", leave=False, disable=not progress):
        pairs = zip(part, first.run(part, batch), second.run(part, batch), strict=True)
        for name, expected, got in pairs:
            if got.shape == expected.shape:
                error, signal = _square(got, expected, precision in SCHEMES)
                squares[name] = squares[name][0] + error, squares[name][1] + signal
    return tuple(
        LayerDivergence(name, first.taps[name].op_type, (error / signal) ** 0.5)
        for name, (error, signal) in squares.items()
        if signal
    )


def _split(names: Sequence[str], graph: _TappedGraph) -> list[list[str]]:
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


class _TappedGraph:
    """A copy of a graph, each of whose float values is an output; `taps` are its nodes by name."""

    def __init__(self, path: Path, copy: Path) -> None:
        self._path = copy
        model = ir.load(path)
        nodes = list(model.graph)
        for check_pass in check_passes()[1:]:  # the first exposes scores alone
            check_pass(model)
        outputs = list(model.graph.outputs)
        self.taps = {str(n.name): n for n in nodes if n.name and n.outputs[0].dtype in _FLOATS}
        self._names = {name: str(node.outputs[0].name) for name, node in self.taps.items()}
        tapped = (node.outputs[0] for node in self.taps.values())
        model.graph.outputs.extend(value for value in tapped if value not in outputs)
        ir.save(model, copy, external_data=f"{copy.name}.data")

    def open(self) -> None:
        """Load the copy, which may be deleted then."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        providers = ["CPUExecutionProvider"]
        self._session: Any = onnxruntime.InferenceSession(self._path, options, providers=providers)

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> list[Floats]:
        """Return the outputs of these nodes."""
        outputs: list[Floats] = self._session.run(
            [self._names[name] for name in names], {"image": images}
        )
        return outputs


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
