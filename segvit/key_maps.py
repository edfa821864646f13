"""Names of SegViT's weights in official mmsegmentation files, and AugReg's layouts.

`official_key` goes from our key to theirs; its inverse over a model's keys reads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from segvit.config import SegViTConfig
from segvit.model import HEADS

# What official files carry beside weights: the constant class weights of their loss.
OFFICIAL_IGNORED = re.compile(r"decode_head\.(atm\.)?loss_decode\.criterion\.empty_weight")

_OFFICIAL_BACKBONE = (
    (r"^backbone\.patch_embed\.", "backbone.patch_embed.projection."),
    (r"^backbone\.blocks\.(\d+)\.norm(\d)\.", r"backbone.layers.\1.ln\2."),
    (r"^backbone\.blocks\.(\d+)\.attn\.qkv\.", r"backbone.layers.\1.attn.attn.in_proj_"),
    (r"^backbone\.blocks\.(\d+)\.attn\.proj\.", r"backbone.layers.\1.attn.attn.out_proj."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
)
_OFFICIAL_HEAD = (
    (r"\.self_attn\.qkv\.", ".self_attn.in_proj_"),
    (r"\.self_attn\.proj\.", ".self_attn.out_proj."),
    (r"\.cross_attn\.qkv\.", ".multihead_attn.in_proj_"),
    (r"\.cross_attn\.", ".multihead_attn."),
    (r"\.query_embed\.", ".q."),
)


def official_key(key: str, config: SegViTConfig) -> str:
    """Return the official mmsegmentation name of our state-dict key."""
    for pattern, replacement in _OFFICIAL_BACKBONE:
        key = re.sub(pattern, replacement, key)
    if key.startswith("backbone."):
        return key
    for pattern, replacement in _OFFICIAL_HEAD:
        key = re.sub(pattern, replacement, key)
    key = re.sub(
        r"\.projections\.(\d+)\.(linear|norm)\.",
        lambda m: f".{'input_proj' if m[2] == 'linear' else 'proj_norm'}_{int(m[1]) + 1}.",
        key,
    )
    return HEADS[config.head].official_key(key, config)


def read_augreg(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return AugReg's Flax arrays under timm's names and layouts; others keep their names.

    Kernels `(in, out)` become weights `(out, in)`, per-head kernels are flattened, and the patch
    kernel `(p, p, 3, C)` becomes a convolution's `(C, 3, p, p)`.
    Source: "How to train your ViT?" checkpoints (arXiv 2106.10270).
    """
    weights = {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}
    state: dict[str, Tensor] = {}
    for source, target in (
        ("cls", "cls_token"),
        ("Transformer/posembed_input/pos_embedding", "pos_embed"),
        ("embedding/bias", "patch_embed.proj.bias"),
    ):
        state[target] = weights.pop(source)
    state["patch_embed.proj.weight"] = weights.pop("embedding/kernel").permute(3, 2, 0, 1)
    depth = sum(
        re.fullmatch(r".*encoderblock_\d+/LayerNorm_0/scale", key) is not None for key in weights
    )
    for index in range(depth):
        source, target = f"Transformer/encoderblock_{index}", f"blocks.{index}"
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            state[f"{target}.{ours}.weight"] = weights.pop(f"{source}/{theirs}/scale")
            state[f"{target}.{ours}.bias"] = weights.pop(f"{source}/{theirs}/bias")
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            state[f"{target}.mlp.{ours}.weight"] = weights.pop(
                f"{source}/MlpBlock_3/{theirs}/kernel"
            ).T
            state[f"{target}.mlp.{ours}.bias"] = weights.pop(f"{source}/MlpBlock_3/{theirs}/bias")
        attention = f"{source}/MultiHeadDotProductAttention_1"
        kernels = [weights.pop(f"{attention}/{part}/kernel") for part in ("query", "key", "value")]
        biases = [weights.pop(f"{attention}/{part}/bias") for part in ("query", "key", "value")]
        state[f"{target}.attn.qkv.weight"] = torch.cat([kernel.flatten(1).T for kernel in kernels])
        state[f"{target}.attn.qkv.bias"] = torch.cat([bias.flatten() for bias in biases])
        state[f"{target}.attn.proj.weight"] = weights.pop(f"{attention}/out/kernel").flatten(0, 1).T
        state[f"{target}.attn.proj.bias"] = weights.pop(f"{attention}/out/bias")
    renamed = {
        re.sub(r"^Transformer/encoder_norm/|^pre_logits/|^head/", _dotted, key): value
        for key, value in weights.items()
    }
    return state | renamed


def _dotted(match: re.Match[str]) -> str:
    return {"Transformer/encoder_norm/": "norm.", "pre_logits/": "pre_logits.", "head/": "head."}[
        match[0]
    ]
