"""Encoders in DINOv2's and DINOv3's style, position by position and gradient by gradient."""

import math

import pytest
import torch

from segvit.config import find_variant
from segvit.model import SegViTOutput, build_model
from segvit.vit import VisionTransformer, make_rotary, resize_pos_embed
from tests.tiny_models import DINO_STYLES, make_config, make_dino_config, make_model
from tests.tolerances import RECOMPUTED_GRADIENT

STYLES = tuple(DINO_STYLES)


def _gradients(backbone: VisionTransformer, image: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)  # the same blocks drop
    backbone.zero_grad()
    sum(tokens.square().mean() for tokens, _ in backbone(image)).backward()
    return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]


@pytest.mark.parametrize("style", ["plain", *STYLES])
def test_recomputed_activations_give_the_same_gradients(style: str) -> None:
    changes: dict[str, object] = {"drop_path_rate": 0.5}
    config = make_config(**changes) if style == "plain" else make_dino_config(style, **changes)
    backbone = make_model(config).backbone.train()
    image = torch.randn(4, 3, config.image_size, config.image_size)
    kept = _gradients(backbone, image)
    backbone.checkpoint_activations = True
    recomputed = _gradients(backbone, image)
    assert len(kept) == len(recomputed) == len(list(backbone.parameters()))
    for one, other in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(one, other, atol=RECOMPUTED_GRADIENT, rtol=0)


def test_activations_are_recomputed_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = torch.utils.checkpoint.checkpoint

    def count(*arguments: object, **options: object) -> object:
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr("segvit.vit.checkpoint", count)
    backbone = make_model(make_dino_config("dinov3")).backbone
    image = torch.randn(1, 3, 64, 64)
    backbone.train()(image)
    backbone.checkpoint_activations = True
    backbone.eval()(image)
    assert not calls
    backbone.train()(image)
    assert calls == [{"use_reentrant": False}] * 4


def test_layer_scale_comes_before_stochastic_depth() -> None:
    """A branch scaled to nothing leaves the stream as it is, dropped or not."""
    model = make_model(make_dino_config("dinov2", drop_path_rate=0.9))
    block = model.backbone.blocks[3].train()
    tokens = torch.randn(8, 17, 48)
    with torch.no_grad():
        changed, _ = block(tokens, (4, 4))
        assert not torch.equal(changed, tokens)
        assert block.layer_scale1 is not None
        assert block.layer_scale2 is not None
        block.layer_scale1.zero_()
        block.layer_scale2.zero_()
        kept, _ = block(tokens, (4, 4))
    assert torch.equal(kept, tokens)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("head", ["cascade", "single"])
def test_models_train_and_predict(style: str, head: str) -> None:
    model = build_model(make_dino_config(style, head))
    image = torch.randn(2, 3, 60, 97)
    with torch.no_grad():
        assert model(image).shape == (2, 7, 60, 97)
    output = model.train()(image)
    assert isinstance(output, SegViTOutput)
    (output.mask_logits.mean() + output.class_logits.square().mean()).backward()
    still = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert not still


@pytest.mark.parametrize("style", STYLES)
def test_models_train_in_mixed_precision(style: str) -> None:
    model = build_model(make_dino_config(style)).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 56, 56))
    assert output.mask_logits.isfinite().all()
    output.mask_logits.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())


@pytest.mark.parametrize("style", STYLES)
def test_prefix_tokens_reach_the_patches(style: str) -> None:
    """Unlike a plain SegViT's class token."""
    backbone = make_model(make_dino_config(style)).backbone
    image = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        before = backbone(image)[-1][0]
        backbone.cls_token.add_(torch.randn(48))
        after = backbone(image)[-1][0]
    assert before.shape == after.shape == (1, 16, 48)
    assert (before - after).abs().max() > 1e-3


def test_new_registers_differ() -> None:
    registers = build_model(make_dino_config("dinov3")).backbone.registers[0]
    assert (registers[0] - registers[1]).abs().max() > 1e-3


def test_rotations_by_hand() -> None:
    """The 2x3 grid's patch in row 1, column 2: centre (0.5, 2/3); waves 1 and 100^-0.5."""
    rotary = make_rotary((2, 3), 8, theta=100.0, num_prefix=1)
    angles = [2 * math.pi * at * wave for at in (0.5, 2 / 3) for wave in (1.0, 0.1)] * 2
    assert rotary.cos.shape == rotary.sin.shape == (7, 8)
    for table, function in ((rotary.cos, math.cos), (rotary.sin, math.sin)):
        expected = torch.tensor([function(angle) for angle in angles], dtype=torch.float64)
        torch.testing.assert_close(table[6], expected)
    assert torch.equal(rotary.cos[0], torch.ones(8, dtype=torch.float64))
    assert torch.equal(rotary.sin[0], torch.zeros(8, dtype=torch.float64))


def test_rotations_depend_on_distance_alone() -> None:
    rotary = make_rotary((1, 6), 8, theta=100.0, num_prefix=0)
    query, key = torch.randn(2, 8, dtype=torch.float64)
    turned = [rotary.rotate(vector.expand(1, 1, 6, 8))[0, 0] for vector in (query, key)]
    logits = turned[0] @ turned[1].T
    torch.testing.assert_close(logits[0, 2], logits[3, 5])
    torch.testing.assert_close(logits[4, 1], logits[3, 0])
    assert (logits[0, 2] - logits[2, 0]).abs() > 1e-6


def test_rotations_keep_half_precision() -> None:
    rotary = make_rotary((2, 2), 8, theta=100.0, num_prefix=1)
    assert rotary.rotate(torch.randn(1, 3, 5, 8).bfloat16()).dtype == torch.bfloat16


def test_registers_positions_are_resized_with_antialiasing() -> None:
    pos_embed = torch.randn(1, 1 + 64, 4)
    plain = resize_pos_embed(pos_embed, (8, 8), (3, 5))
    smooth = resize_pos_embed(pos_embed, (8, 8), (3, 5), antialias=True)
    assert plain.shape == smooth.shape == (1, 16, 4)
    assert torch.equal(plain[:, 0], smooth[:, 0])
    assert smooth[:, 1:].std() < 0.8 * plain[:, 1:].std()
    assert not build_model(make_dino_config("dinov2")).backbone.antialias
    assert build_model(make_dino_config("dinov2_reg")).backbone.antialias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_registers": -1, "keeps_prefix": True}, "num_registers must be 0 or more, got -1"),
        ({"num_registers": 4}, "num_registers must be 0 without keeps_prefix, got 4"),
        ({"position": "sine"}, "position must be 'learned' or 'rotary', got 'sine'"),
        ({"position": "rotary", "embed_dim": 54}, "multiple of 12 with rotary positions"),
        ({"position": "rotary", "rope_theta": 1.0}, r"rope_theta must be above 1, got 1\.0"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ],
)
def test_encoders_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"config 'tiny_cascade': .*{message}"):
        make_config(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"keeps_prefix": True}, "keeps_prefix"), ({"position": "rotary"}, "rotary positions")],
)
def test_the_shrunk_head_takes_patches_alone(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"head must be 'cascade' or 'single' .* with {named}"):
        make_config("shrunk", **changes)
    assert make_config("shrunk", layer_scale=True).layer_scale


@pytest.mark.parametrize("name", ["dinov2_s", "dinov2_b", "dinov2_l", "dinov2_b_reg"])
def test_dinov2_variants(name: str) -> None:
    config = find_variant(f"{name}_ade20k")
    assert (config.patch_size, config.image_size, config.grid_size) == (14, 518, 37)
    assert (config.position, config.num_classes, config.norm_eps) == ("learned", 150, 1e-6)
    assert config.num_prefix == (5 if "reg" in name else 1)
    assert config.embed_dim == 64 * config.num_heads == 2 * config.decoder_dim


@pytest.mark.parametrize("name", ["dinov3_b", "dinov3_l"])
def test_dinov3_variants(name: str) -> None:
    config = find_variant(f"{name}_ade20k")
    assert (config.patch_size, config.image_size, config.grid_size) == (16, 512, 32)
    assert (config.position, config.num_prefix, config.norm_eps) == ("rotary", 5, 1e-5)
    assert config.mean == (123.675, 116.28, 103.53)
