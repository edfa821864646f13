"""Names of plain-ViT backbones in other people's checkpoints: timm's, the authors', Transformers'.

Each reads a source's keys as ours (without the `backbone.` prefix): names are mapped, separate Q, K
and V packed into one. Keys that no rule knows keep their names, so that they are reported.

| | timm | authors' | Transformers |
|---|---|---|---|
| registers | `reg_token` | `register_tokens`, `storage_tokens` | `embeddings.register_tokens` |
| LayerScale | `ls1.gamma`, `gamma_1` | `ls1.gamma` | `layer_scale1.lambda1` |
| Q, K, V | packed; biases apart or none | packed; `bias_mask` | apart; two generations of names |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# What backbones carry beside the encoder SegViT uses: final norm, head, what masked pretraining
# put in place of patches, and the waves of rotary positions, which the config gives.
BACKBONE_IGNORED = re.compile(
    r"(norm|fc_norm|layernorm|head|head_dist|pre_logits|head_drop|classifier)\."
    r"|(embeddings\.)?mask_token$|(rope_embed|rope|rope_embeddings)\."
)
# Names of a gated MLP's linears: of Transformers (DINOv2, DINOv3), the authors' and timm's.
_GATED = re.compile(r".*\.mlp\.(weights_in|gate_proj|w12|w1|fc1_g)\.weight$")
_PATCHES = re.compile(
    r"(.*?)(patch_embed\.proj|embeddings\.patch_embeddings(\.projection)?)\.weight"
)
_RENAMES = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed."),
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^(reg_token|(embeddings\.)?register_tokens|storage_tokens)$", "registers"),
    (r"^((encoder|model)\.)?layer\.(\d+)\.", r"blocks.\3."),
    (r"\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attn\.(q|k|v)(_proj\.|_(?=bias$))", r".attn.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.(ls(\d)\.gamma|gamma_(\d)|layer_scale(\d)\.lambda1)$", r".layer_scale\2\3\4"),
)


def strip_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return a backbone's state under keys without the wrapper's prefix, or None if it is none.

    The prefix (`dinov2.`, `model.`, ...) is what stands before the patch embedding's weight.
    """
    found = [match[1] for key in state if (match := _PATCHES.fullmatch(key))]
    if len(found) != 1:
        return None
    return {key.removeprefix(found[0]): value for key, value in state.items()}


def find_gated_mlp(state: Mapping[str, Tensor]) -> str | None:
    """Return the first key of a gated (SwiGLU) MLP, which no backbone here has, or None.

    timm packs DINOv2 giant's under plain names: its second linear is narrower than the first.
    """
    for key, value in state.items():
        second = state.get(key.replace(".mlp.fc1.", ".mlp.fc2."), value)
        packed = key.endswith(".mlp.fc1.weight") and second is not value
        if _GATED.match(key) or (packed and len(value) != second.shape[1]):
            return key
    return None


def our_key(key: str) -> str:
    """Return our name of a source's backbone key; Q, K and V apart are `attn.q`, `attn.k` ..."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def read_backbone(state: Mapping[str, Tensor], lacks_key_bias: bool) -> dict[str, Tensor]:
    """Return a source's backbone weights under our names.

    Args:
        state: keys without a wrapper's prefix.
        lacks_key_bias: whether the source may have none (DINOv3): it is then zero.
    """
    weights = {our_key(key): value for key, value in state.items()}
    for prefix in _attention_prefixes(weights):
        _pack_weight(weights, prefix)
        _pack_bias(weights, prefix, lacks_key_bias)
    registers, positions = weights.get("registers"), weights.get("pos_embed")
    if registers is not None and positions is not None:
        patches = positions.shape[1]
        if round(patches**0.5) ** 2 == patches:  # timm has added the class token's to the token
            weights["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return weights


def _attention_prefixes(keys: Iterable[str]) -> list[str]:
    found = (re.match(r"blocks\.\d+\.attn\.", key) for key in keys)
    return sorted({match[0] for match in found if match})


def _pack_weight(weights: dict[str, Tensor], prefix: str) -> None:
    """Replace separate Q, K and V weights, if all are there, by the packed one."""
    names = [f"{prefix}{part}.weight" for part in "qkv"]
    if all(name in weights for name in names):
        weights[f"{prefix}qkv.weight"] = torch.cat([weights.pop(name) for name in names])


def _pack_bias(weights: dict[str, Tensor], prefix: str, lacks_key_bias: bool) -> None:
    """Replace separate or masked Q, K and V biases by the packed one."""
    packed, mask = f"{prefix}qkv.bias", weights.pop(f"{prefix}qkv.bias_mask", None)
    if mask is not None and packed in weights:
        weights[packed] = weights[packed] * mask
    names = [f"{prefix}{part}.bias" for part in "qkv"]
    missing = [name for name in names if name not in weights]
    if packed in weights or f"{prefix}qkv.weight" not in weights:
        return
    if missing and not (lacks_key_bias and missing in ([names[1]], names)):
        return
    width = len(weights[f"{prefix}qkv.weight"]) // 3
    zeros = weights[f"{prefix}qkv.weight"].new_zeros(width)
    weights[packed] = torch.cat([weights.pop(name, zeros) for name in names])
