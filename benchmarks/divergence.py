"""Where a precision variant of a graph leaves its FP32 form: the error of every layer's output.

Nodes are named after their modules whatever the precision (`export.passes.node_names`), so the
outputs of nodes of one name are compared: the reference's on ONNX Runtime's CPU provider with its
optimizations off, every node as it is written, the variant's there too, or as OpenVINO or a
TensorRT engine computes them, as far as their compilers leave them (`benchmarks.tapped_graphs`).

Quantisation moves powers of two between the factors of a product (`calibration.rescaling`), which
changes no digit and would look like an error of one layer that the next one undoes. In INT8 and
FP8 whole channels that are off by powers of two are therefore scaled back first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tapped_graphs import open_tapped
from calibration.scheme import SCHEMES
from engines.target import Target
from export.layer_divergence import LayerDivergence, compare_layers


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
        first = open_tapped(reference, Target.ORT)
        stack.callback(first.close)
        second = open_tapped(candidate, target)
        stack.callback(second.close)
        if not any(name in second.taps for name in first.taps):
            raise ValueError(
                f"'{candidate}' and '{reference}' have no node in common; give artifacts of one "
                "model, built with this version"
            )
        layers = compare_layers(first, second, images, precision in SCHEMES, progress)
    if not layers:
        raise ValueError(
            f"nothing of '{candidate}' could be read on {target}: its compiler leaves no layer's "
            "values; bisect on another target, ort reads every layer as it is written"
        )
    return layers
