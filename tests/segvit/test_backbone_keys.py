"""Backbones of other sources: Transformers' outputs, and every name timm and the authors use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from segvit.backbone_keys import find_gated_mlp, our_key, strip_wrapper
from segvit.checkpoint import CheckpointError, load_checkpoint
from segvit.model import SegViT
from tests.tiny_models import DINO_STYLES, make_dino_config, make_model
from tests.tolerances import TRANSFORMERS_TOKENS

CLASSES = {
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, {}),
    "dinov2_reg": (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
        {"num_register_tokens": 4},
    ),
    "dinov3": (
        transformers.DINOv3ViTConfig,
        transformers.DINOv3ViTModel,
        {"num_register_tokens": 4, "intermediate_size": 192},
    ),
}
STYLES = tuple(DINO_STYLES)


def _theirs(style: str, **changes: object) -> transformers.PreTrainedModel:
    """A model of Transformers with every weight random, as `make_model`'s."""
    config_class, model_class, own = CLASSES[style]
    config = make_dino_config(style)
    values: dict[str, object] = {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    model = model_class(config_class(**(values | own | changes))).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.3).add_(1.0 if "norm" in name and "weight" in name else 0.0)
    return model


def _assert_same_tokens(
    ours: SegViT, theirs: transformers.PreTrainedModel, size: tuple[int, int]
) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    config = ours.config
    with torch.no_grad():
        taps = ours.backbone(image)
        hidden = theirs(image, output_hidden_states=True).hidden_states
    for tap, (tokens, grid) in zip(config.tap_blocks, taps, strict=True):
        assert grid == (size[0] // config.patch_size, size[1] // config.patch_size)
        expected = hidden[tap + 1][:, config.num_prefix :]
        torch.testing.assert_close(tokens, expected, atol=TRANSFORMERS_TOKENS, rtol=0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("patch", [14, 16])
def test_tokens_are_those_of_transformers(style: str, patch: int, tmp_path: Path) -> None:
    """At the trained size, and at an oblong one by each model's own way to resize positions."""
    theirs = _theirs(style, patch_size=patch, image_size=4 * patch)
    theirs.save_pretrained(tmp_path)
    config = make_dino_config(style, patch_size=patch, image_size=4 * patch)
    ours = load_checkpoint(tmp_path / "model.safetensors", config)
    for grid in ((4, 4), (3, 7), (6, 5)):
        _assert_same_tokens(ours, theirs, (grid[0] * patch, grid[1] * patch))
    assert ours.provenance is not None
    assert ours.provenance.random_parts == ("decode_head",)
    assert "embeddings.mask_token" in ours.provenance.unused_keys


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wrapper", ["", "dinov2.", "dinov2_with_registers.", "model."])
def test_names_in_memory_and_wrappers(style: str, wrapper: str, tmp_path: Path) -> None:
    theirs = _theirs(style)
    state = {f"{wrapper}{key}": value for key, value in theirs.state_dict().items()}
    torch.save(state | {"classifier.weight": torch.ones(3)}, tmp_path / "model.pth")
    ours = load_checkpoint(tmp_path / "model.pth", make_dino_config(style))
    _assert_same_tokens(ours, theirs, (ours.config.image_size, 2 * ours.config.image_size))


def test_dinov3_has_no_key_bias(tmp_path: Path) -> None:
    _theirs("dinov3").save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path / "model.safetensors", make_dino_config("dinov3"))
    query, key, value = model.backbone.blocks[0].attn.qkv.bias.detach().chunk(3)
    assert not key.any()
    assert query.all()
    assert value.all()


def test_a_missing_key_bias_of_dinov2_is_missing(tmp_path: Path) -> None:
    state = _theirs("dinov2").state_dict()
    for index in range(4):
        del state[f"encoder.layer.{index}.attention.k_proj.bias"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"4 keys missing \(first: backbone.blocks.0.attn.qkv"
    ):
        load_checkpoint(tmp_path / "model.pth", make_dino_config("dinov2"))


def _timm(model: SegViT) -> dict[str, Tensor]:
    """Our weights under timm's names and in its layout."""
    state = {key: value.detach().clone() for key, value in model.backbone.state_dict().items()}
    is_eva = model.config.position == "rotary"
    for name in [key for key in state if "layer_scale" in key]:
        number, stem = name[-1], name.removesuffix(f".layer_scale{name[-1]}")
        state[f"{stem}.gamma_{number}" if is_eva else f"{stem}.ls{number}.gamma"] = state.pop(name)
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = state.pop(f"patch_embed.{part}")
    if "registers" in state:
        state["reg_token"] = state.pop("registers")
        if not is_eva:  # no place for the class token
            state["pos_embed"] = state["pos_embed"][:, 1:]
    return state | {"norm.weight": torch.ones(48), "head.bias": torch.ones(3)}


def _zero_unpublished(model: SegViT) -> SegViT:
    """Without what timm's layout has no place for."""
    with torch.no_grad():
        if model.config.position == "rotary":
            for block in model.backbone.blocks:
                block.attn.qkv.bias.chunk(3)[1].zero_()
        elif model.config.num_registers:
            model.backbone.pos_embed[:, 0].zero_()
    return model


def _assert_loads(state: dict[str, Tensor], model: SegViT, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    loaded = load_checkpoint(path, model.config)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[key], value), key


@pytest.mark.parametrize("style", STYLES)
def test_timm_names(style: str, tmp_path: Path) -> None:
    model = _zero_unpublished(make_model(make_dino_config(style)))
    state = _timm(model)
    if style == "dinov3":  # biases of queries and values apart
        for index in range(4):
            query, _, value = state.pop(f"blocks.{index}.attn.qkv.bias").chunk(3)
            state[f"blocks.{index}.attn.q_bias"], state[f"blocks.{index}.attn.v_bias"] = (
                query,
                value,
            )
    _assert_loads(state, model, tmp_path / "vit.safetensors")


def test_timm_dinov3_without_biases(tmp_path: Path) -> None:
    model = make_model(make_dino_config("dinov3"))
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attn.qkv.bias.zero_()
    state = {key: value for key, value in _timm(model).items() if "qkv.bias" not in key}
    _assert_loads(state, model, tmp_path / "vit.safetensors")


def test_the_authors_names(tmp_path: Path) -> None:
    """DINOv3's hold a key bias and the mask that takes it away."""
    model = _zero_unpublished(make_model(make_dino_config("dinov3")))
    state = _timm(model)
    state["storage_tokens"] = state.pop("reg_token")
    state |= {"rope_embed.periods": torch.ones(4), "mask_token": torch.ones(1, 48)}
    for index in range(4):
        for number in (1, 2):
            gamma = state.pop(f"blocks.{index}.gamma_{number}")
            state[f"blocks.{index}.ls{number}.gamma"] = gamma
        state[f"blocks.{index}.attn.qkv.bias"].chunk(3)[1].fill_(7.0)
        mask = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
        state[f"blocks.{index}.attn.qkv.bias_mask"] = mask
    _assert_loads(state, model, tmp_path / "dinov3.safetensors")
    registers = make_model(make_dino_config("dinov2_reg"))
    state = _timm(registers) | {"pos_embed": registers.backbone.pos_embed.detach()}
    state["register_tokens"] = state.pop("reg_token")
    _assert_loads(state, registers, tmp_path / "dinov2.safetensors")


def test_positions_of_another_grid_are_resized_as_their_model_does(tmp_path: Path) -> None:
    """A model made for a 6x6 grid, loaded for 4x4, is the same at 56 px."""
    for style in ("dinov2", "dinov2_reg"):
        theirs = _theirs(style, image_size=84)
        theirs.save_pretrained(tmp_path / style)
        path = tmp_path / style / "model.safetensors"
        ours = load_checkpoint(path, make_dino_config(style))
        _assert_same_tokens(ours, theirs, (56, 56))


@pytest.mark.parametrize(("style", "first"), [("dinov2", "gate_proj"), ("dinov3", "gate_proj")])
def test_gated_mlps_are_refused(style: str, first: str, tmp_path: Path) -> None:
    option = {"dinov2": "use_swiglu_ffn", "dinov3": "use_gated_mlp"}[style]
    theirs = _theirs(style, **{option: True})
    assert first in (find_gated_mlp(theirs.state_dict()) or "")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has a gated \(SwiGLU\) MLP .*give a small, base or"
    ):
        load_checkpoint(tmp_path / "model.safetensors", make_dino_config(style))


def test_gated_mlps_of_timm_and_the_authors() -> None:
    plain = _timm(make_model(make_dino_config("dinov2")))
    assert find_gated_mlp(plain) is None
    for name in ("w12", "w1", "fc1_g"):
        gated = f"blocks.0.mlp.{name}.weight"
        assert find_gated_mlp(plain | {gated: torch.ones(1, 1)}) == gated
    packed = "blocks.0.mlp.fc1.weight"
    assert find_gated_mlp(plain | {packed: torch.ones(2 * 192, 48)}) == packed


@pytest.mark.parametrize(
    ("style", "other", "message"),
    [
        ("dinov2", "dinov2_reg", r"1 keys missing \(first: backbone.registers\)"),
        ("dinov2_reg", "dinov2", r"1 keys unexpected \(first: backbone.registers\)"),
        ("dinov2_reg", "dinov3", r"1 keys unexpected \(first: backbone.pos_embed\), 1 keys missh"),
        ("dinov3", "dinov2_reg", r"5 keys missing \(first: backbone.pos_embed\)"),
    ],
)
def test_other_backbones_do_not_fit(style: str, other: str, message: str, tmp_path: Path) -> None:
    _theirs(style).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=f"does not fit 'tiny_{other}': .*{message}"
    ) as caught:
        load_checkpoint(tmp_path / "model.safetensors", make_dino_config(other))
    assert caught.value.__notes__


def test_a_lost_projection_is_reported(tmp_path: Path) -> None:
    _theirs("dinov2").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layer.2.attention.attention.value.weight"]
    torch.save(state, tmp_path / "lost.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "lost.pth", make_dino_config("dinov2"))
    assert "missing: backbone.blocks.2.attn.qkv.weight" in caught.value.__notes__


def test_wrappers_and_names() -> None:
    weight = torch.ones(1)
    assert strip_wrapper({"a.patch_embed.proj.weight": weight, "b": weight}) == {
        "patch_embed.proj.weight": weight, "b": weight,
    }  # fmt: skip
    assert strip_wrapper({"stem.weight": weight}) is None
    twice = {f"{tower}.patch_embed.proj.weight": weight for tower in ("student", "teacher")}
    assert strip_wrapper(twice) is None
    assert our_key("patch_embed.proj.weight") == "patch_embed.weight"
    assert our_key("blocks.3.attn.qkv.bias") == "blocks.3.attn.qkv.bias"
    assert our_key("blocks.3.attn.q_norm.weight") == "blocks.3.attn.q_norm.weight"
