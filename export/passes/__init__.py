"""The ordered pipelines of graph passes."""

from __future__ import annotations

import re
from typing import Literal, get_args

import onnx_ir as ir

from export.passes.attention_sums import AttentionSumsPass
from export.passes.cast_precision import CastPrecisionPass
from export.passes.half_sums import HalfSumsPass
from export.passes.node_names import NodeNamesPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.passes.score_outputs import ScoreOutputsPass
from export.passes.uint8_edges import Uint8EdgesPass

AttentionForm = Literal["fp32-sums", "fp16-sums", "unfused"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = get_args(AttentionForm)

_DEQUANTIZE = "DequantizeLinear"
PRECISIONS = {"fp32": None, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# What a 16-bit type is not used for. BF16 is for the range of the encoder's residual stream; the
# head normalises every stream and the tail stays within 0 and a few, so both take FP16's three
# further bits at the same cost: 0.998 instead of 0.981 of land-cover pixels as in FP32. Pixels are
# resized in FP32, inside the kernel that reads them.
EXCEPTIONS = {
    "fp16": {"^resize/": ir.DataType.FLOAT},
    "bf16": {"^(head|tail)/": ir.DataType.FLOAT16, "^resize/": ir.DataType.FLOAT},
}


def deploy_passes(
    precision: str, attention: AttentionForm | None = "fp32-sums"
) -> list[ir.passes.InPlacePass]:
    """Return the passes from a traced graph to the one that is shipped.

    Args:
        precision: one of `PRECISIONS`.
        attention: what 16-bit attentions ask for: sums in FP32; with `fp16-sums` nothing, so that
            the compiler chooses; with `unfused` FP32 throughout. FP32 graphs have no choice.
    """
    dtype = PRECISIONS[precision]
    names, edges = NodeNamesPass(), Uint8EdgesPass()
    if dtype is None:
        return [names, edges]
    cast = CastPrecisionPass(dtype, EXCEPTIONS.get(precision))
    sums = AttentionSumsPass(fused=attention != "unfused")
    return [names, cast, *([] if attention == "fp16-sums" else [sums]), edges]


def cast_beside_quantised(graph: ir.Graph) -> CastPrecisionPass:
    """Return the pass that makes BF16 of all that Q/DQ left in FP32.

    Q/DQ, the products between and their biases stay: an INT8 product is summed in 32 bits, and its
    scales are no place to lose bits.
    """
    kept = {str(node.name) for node in graph if node.op_type in ("QuantizeLinear", _DEQUANTIZE)}
    products = [use.node for node in graph if node.op_type == _DEQUANTIZE
                for use in node.outputs[0].uses()]  # fmt: skip
    kept.update(str(node.name) for node in products)
    kept.update(
        str(use.node.name) for node in products for use in node.outputs[0].uses()
        if use.node.op_type == "Add" and any(v.is_initializer() for v in use.node.inputs if v)
    )  # fmt: skip
    exact = f"^({'|'.join(map(re.escape, sorted(kept)))})$"
    return CastPrecisionPass(ir.DataType.BFLOAT16, {exact: ir.DataType.FLOAT, **EXCEPTIONS["bf16"]})


def check_passes(half_sums: bool = False) -> list[ir.passes.InPlacePass]:
    """Return the passes from a copy of the shipped graph to one whose scores can be read here.

    Args:
        half_sums: sum attention in FP16, as engines may do that are not told otherwise.
    """
    sums = [HalfSumsPass()] if half_sums else []
    return [ScoreOutputsPass(), *sums, RoundingEmulationPass()]
