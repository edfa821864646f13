"""Read the scores behind a shipped graph's labels, on ONNX Runtime's CPU provider.

Shapes: `n` images, `K` classes, `K+` padded classes, `H, W` pixels, `h, w` pixels that the model
works on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.cells import Cell, join_cells
from export.check_session import open_session
from export.passes import check_passes
from export.passes.half_sums import HalfSumsPass
from export.verify import Prediction
from segvit.images import Size
from segvit.memory import release_memory


class ScoreReader:
    """Labels and scores of a copy of the graph that gives its scores too and rounds as a GPU does.

    Every 16-bit value is rounded where the graph stores it, which ONNX Runtime by itself leaves
    out (see `RoundingEmulationPass`), so that a value that overflows on a GPU overflows here.

    Args:
        onnx_path: the shipped graph, labels or scores out.
        num_classes: K.
        size: (h, w) where images are resized from another size, None where they are not.
        cells: of a graph that slides over one image, whose scores come cell by cell.
        half_sums: sum attention in FP16 (see `HalfSumsPass`), as engines may.
    """

    def __init__(
        self,
        onnx_path: Path,
        num_classes: int,
        size: Size | None = None,
        cells: Sequence[Cell] = (),
        half_sums: bool = False,
    ) -> None:
        self.num_classes, self.size, self.cells = num_classes, size, cells
        self.gives_scores = self.sums_in_half = False

        def rewrite(model: ir.Model) -> None:
            self.gives_scores = model.graph.outputs[0].name == "scores"
            for check_pass in check_passes(half_sums):
                modified = check_pass(model).modified
                self.sums_in_half |= modified and isinstance(check_pass, HalfSumsPass)

        self.session: Any = open_session(onnx_path, rewrite)

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Return labels `(n, H, W)` and float32 scores `(n, K, h, w)`."""
        first, *parts = self.session.run(None, {"image": images})
        if self.gives_scores:
            return Prediction(first.argmax(axis=1), first)
        if self.cells:
            return Prediction(first, join_cells(parts, self.cells, self.num_classes)[None])
        count = len(first)
        height, width = self.size or first.shape[1:]
        # One part an image and strip, in that order, or one for the whole batch.
        flat = [part.reshape(len(part), part.shape[1], -1) for part in parts]
        joined = np.concatenate(flat, axis=2) if len(flat) > 1 else flat[0]
        if len(joined) != count:
            joined = joined[0].reshape(-1, count, height * width).swapaxes(0, 1)
        scores = joined[:, : self.num_classes].reshape(count, -1, height, width)
        return Prediction(first, scores.astype(np.float32, copy=False))

    def close(self) -> None:
        """Free the session."""
        self.session = None
        release_memory()
