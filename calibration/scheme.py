"""What is quantised and how: one frozen description a precision.

Symmetric throughout, no zero points: an activation has one scale, a weight one or one an output
channel. Softmax, LayerNorm, GELU, residuals and the mask tail keep the graph's floats, and so does
attention unless FP8 is asked for there too.
Source: Integer Quantization for Deep Learning Inference (arXiv 2004.09602); FP8 Formats for Deep
Learning (arXiv 2209.05433).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

Granularity = Literal["tensor", "channel"]


@dataclass(frozen=True)
class LayerRule:
    """Which products are quantised, by node name, and how finely their weights are scaled.

    `limit` fixes the activation's range where it is known beforehand.
    """

    pattern: str
    weights: Granularity
    limit: float | None = None


@dataclass(frozen=True)
class Scheme:
    """A low-precision type, its largest value, and the products that take it.

    `attention`: the encoder's attentions take it as well, Q, K, V and the softmax's output.
    """

    name: str
    dtype: ir.DataType
    largest: float
    rules: tuple[LayerRule, ...] = field(default=())
    attention: bool = False

    def find_rule(self, node: ir.Node) -> LayerRule | None:
        """Return the rule of a product of activations and weights, None where it stays float."""
        if node.op_type != "MatMul" or node.inputs[1] is None:
            return None
        name = node.name or ""
        return next((rule for rule in self.rules if re.fullmatch(rule.pattern, name)), None)


# Per-channel scales on the packed QKV become a multiplication behind the product, which costs the
# strided views that attention reads: three shuffle kernels a block (docs/quantization.md).
_QKV = LayerRule(r"encoder/\d+/(qkv|query|key_value)/MatMul", "tensor")

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "int8",
            ir.DataType.INT8,
            127.0,
            (
                # Pixels less 128 are whole numbers from -128 to 127: this one loses nothing.
                LayerRule(r"patch_embed/linear/MatMul", "channel", limit=127.0),
                _QKV,
                # The output projection stays: in INT8 it costs a copy behind the attention.
                LayerRule(r"encoder/\d+/fc[12]/MatMul", "channel"),
            ),
        ),
        Scheme(
            "fp8",
            ir.DataType.FLOAT8E4M3FN,
            448.0,
            (
                _QKV,
                # fc1 stays: in FP16 its GELU is one kernel with it, and writes FP8.
                LayerRule(r"encoder/\d+/(proj|fc2)/MatMul", "channel"),
            ),
        ),
    )
}


def find_scheme(name: str, attention: bool = False) -> Scheme:
    """Return the scheme of a precision.

    Args:
        name: `int8` or `fp8`.
        attention: quantise the encoder's attentions too; FP8 alone.

    Raises:
        ValueError: if the precision is unknown, or attention is asked for in INT8.
    """
    if name not in SCHEMES:
        raise ValueError(f"precision '{name}': expected one of {', '.join(SCHEMES)}")
    if attention and name != "fp8":
        # Where it does fuse, on land cover at 256 px, it costs 18 kernels on 134 and no byte less:
        # three copies a block before it, as in FP8, whose products at least write 8 bits.
        raise ValueError(
            f"attention in {name}: compilers fuse INT8 attention up to 512 tokens and a head "
            "dimension of 64 only, and with its output quantised too; leave it in FP16, or take fp8"
        )
    return replace(SCHEMES[name], attention=attention)
