"""The ordered pipelines of graph passes."""

from __future__ import annotations

import onnx_ir as ir

from export.passes.cast_precision import CastPrecisionPass
from export.passes.node_names import NodeNamesPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.passes.score_outputs import ScoreOutputsPass

PRECISIONS = {"fp32": None, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# What a 16-bit type is not used for. BF16 is for the range of the encoder's residual stream; the
# head normalises every stream and the tail stays within 0 and a few, so both take FP16's three
# further bits at the same cost: 0.998 instead of 0.981 of land-cover pixels as in FP32. Pixels are
# resized in FP32, inside the kernel that reads them.
EXCEPTIONS = {
    "fp16": {"^resize/": ir.DataType.FLOAT},
    "bf16": {"^(head|tail)/": ir.DataType.FLOAT16, "^resize/": ir.DataType.FLOAT},
}


def deploy_passes(precision: str) -> list[ir.passes.InPlacePass]:
    """Return the passes from a traced graph to the one that is shipped."""
    dtype = PRECISIONS[precision]
    names = NodeNamesPass()
    if dtype is None:
        return [names]
    return [names, CastPrecisionPass(dtype, EXCEPTIONS.get(precision))]


def check_passes(precision: str) -> list[ir.passes.InPlacePass]:
    """Return the passes from a copy of the shipped graph to one whose scores can be read here."""
    scores = ScoreOutputsPass()
    return [scores, RoundingEmulationPass()] if precision == "bf16" else [scores]
