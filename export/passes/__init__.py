"""The ordered pipelines of graph passes."""

from __future__ import annotations

import onnx_ir as ir

from export.passes.cast_precision import CastPrecisionPass
from export.passes.node_names import NodeNamesPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.passes.score_outputs import ScoreOutputsPass

PRECISIONS = {"fp32": None, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def deploy_passes(precision: str) -> list[ir.passes.InPlacePass]:
    """Return the passes from a traced graph to the one that is shipped."""
    dtype = PRECISIONS[precision]
    names = NodeNamesPass()
    return [names] if dtype is None else [names, CastPrecisionPass(dtype)]


def check_passes(precision: str) -> list[ir.passes.InPlacePass]:
    """Return the passes from a copy of the shipped graph to one whose scores can be read here."""
    scores = ScoreOutputsPass()
    return [scores, RoundingEmulationPass()] if precision == "bf16" else [scores]
