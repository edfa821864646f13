"""Key maps, both ways, against the key lists of the published checkpoints."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from segvit.backbone_keys import our_key
from segvit.checkpoint import build_keys, to_official
from segvit.config import SegViTConfig, find_variant
from segvit.key_maps import OFFICIAL_IGNORED, official_key, read_augreg
from tests.tiny_models import GOLDEN, make_config, make_model

PUBLISHED = {
    "vit_b_ade20k": "vit-b_512_ade",
    "vit_l_ade20k": "vit-l_640_ade",
    "vit_l_shrunk_ade20k": "vit-l_shrunk_640_ade",
    "vit_l_coco_stuff10k": "vit-l_512_coco",
    "vit_l_shrunk_coco_stuff10k": "vit-l_shrunk_512_coco",
    "vit_l_pascal_context": "vit-l_480_pc",
    "vit_l_shrunk_pascal_context": "vit-l_shrunk_480_pc",
}


@pytest.mark.parametrize(("name", "listed"), PUBLISHED.items())
def test_every_published_key_and_shape(name: str, listed: str) -> None:
    golden = json.loads((GOLDEN / "fullscale" / f"{listed}.keys.json").read_text())
    shapes = golden["state_dict"].items()
    wanted = {key: tuple(shape) for key, shape in shapes if not OFFICIAL_IGNORED.fullmatch(key)}
    config = find_variant(name)
    ours = {official_key(k, config): tuple(s) for k, s in build_keys(config).items()}
    assert ours == wanted
    read = SegViTConfig.from_mmseg(golden["model_cfg"], name)
    # What the configuration of a model does not say: its data's classes, and how they are resized.
    data = {key: getattr(config, key) for key in ("class_names", "palette", "short_side")}
    assert replace(read, **data) == config


@pytest.mark.parametrize("name", ["base", "single", "shrunk"])
def test_golden_files_have_no_other_key(name: str) -> None:
    head = {"base": "cascade"}.get(name, name)
    state = torch.load(GOLDEN / f"{name}_s0.pth", weights_only=True)["state_dict"]
    model = make_model(make_config(head))
    depth_keys = {key for key in to_official(model) if key.startswith("decode_head.decoder_1")}
    assert depth_keys <= set(state)
    assert len(to_official(model)) == len(model.state_dict())  # no two keys share a name


def test_augreg_layouts() -> None:
    """Each array back from our weights by the layout Flax uses: kernels (in, out), heads apart."""
    block = make_model(make_config(depth=1, tap_blocks=(0,))).backbone
    state = {key: value.detach() for key, value in block.state_dict().items()}
    heads, dim = 3, 48
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.bias"],
        "Transformer/encoder_norm/scale": torch.ones(dim),
        "head/bias": torch.zeros(5),
    }
    prefix = "Transformer/encoderblock_0"
    for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
        arrays[f"{prefix}/{theirs}/scale"] = state[f"blocks.0.{ours}.weight"]
        arrays[f"{prefix}/{theirs}/bias"] = state[f"blocks.0.{ours}.bias"]
    for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
        arrays[f"{prefix}/MlpBlock_3/{theirs}/kernel"] = state[f"blocks.0.mlp.{ours}.weight"].T
        arrays[f"{prefix}/MlpBlock_3/{theirs}/bias"] = state[f"blocks.0.mlp.{ours}.bias"]
    attention = f"{prefix}/MultiHeadDotProductAttention_1"
    weights, biases = state["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.bias"]
    parts = zip(("query", "key", "value"), weights.chunk(3), biases.chunk(3), strict=True)
    for part, weight, bias in parts:
        arrays[f"{attention}/{part}/kernel"] = weight.T.reshape(dim, heads, dim // heads)
        arrays[f"{attention}/{part}/bias"] = bias.reshape(heads, dim // heads)
    out = state["blocks.0.attn.proj.weight"].T.reshape(heads, dim // heads, dim)
    arrays[f"{attention}/out/kernel"] = out
    arrays[f"{attention}/out/bias"] = state["blocks.0.attn.proj.bias"]
    read = read_augreg({key: np.ascontiguousarray(value.numpy()) for key, value in arrays.items()})
    ours = {our_key(key): value for key, value in read.items()}
    for key, value in state.items():
        assert torch.equal(ours[key], value), key
    assert {"norm.scale", "head.bias"} == set(ours) - set(state)
