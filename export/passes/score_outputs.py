"""The scores of a graph that gives labels, for checking how close they are."""

from __future__ import annotations

import onnx_ir as ir


class ScoreOutputsPass(ir.passes.InPlacePass):
    """Makes what every ArgMax reads an output of the graph, in graph order.

    1. `ArgMax(scores) -> labels` -> the same, with `scores` an output too.

    The graph that is shipped stays as it is: this is for a copy of it, so that the scores checked
    are those the shipped labels come from.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model with its scores exposed; unmodified where they are or none exist."""
        outputs = model.graph.outputs
        scores = [node.inputs[0] for node in model.graph if node.op_type == "ArgMax"]
        hidden = [value for value in scores if value is not None and value not in outputs]
        outputs.extend(hidden)
        return ir.passes.PassResult(model, modified=bool(hidden))
