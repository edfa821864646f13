"""How fused attentions sum, read from the plan of a TensorRT-RTX engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

# TensorRT-RTX embeds the source of its attention kernels, whose template arguments name the traits
# of QK^T and of P·V, once an attention and generation of GPUs (seen with 1.7, SM75 to SM121).
_TRAITS = re.compile(rb"Kernel_traits_v2\w*<\s*fmha::(\w+?)_traits,\s*fmha::(\w+?)_traits")
# The last word of a trait's name; products of BF16 are always summed in FP32.
_SUMS = {"fp16": "FP16", "fp32": "FP32", "bf16": "FP32", "int32": "INT32"}


@dataclass(frozen=True)
class AttentionSums:
    """The datatypes in which one fused attention kernel sums QK^T and P·V, such as `FP32`."""

    logits: str
    context: str

    @property
    def is_float32(self) -> bool:
        """True if neither is summed in 16 bits."""
        return "FP16" not in (self.logits, self.context)


def read_attention_sums(plan: bytes) -> tuple[AttentionSums, ...] | None:
    """Return how each attention kernel in a plan sums, None where the plan does not tell.

    A plan for several generations of GPUs lists each attention as often.
    """
    found = []
    for pair in _TRAITS.findall(plan):
        names = [_SUMS.get(name.decode().rsplit("_", 1)[-1]) for name in pair]
        logits, context = names
        if logits is None or context is None:
            return None
        found.append(AttentionSums(logits, context))
    return tuple(found) or None
