"""Model descriptions: their table, their JSON, mmsegmentation's dictionaries, what they refuse."""

import json
from dataclasses import replace

import pytest

from segvit.classes import distinct_palette
from segvit.config import VARIANTS, SegViTConfig, find_variant
from tests.tiny_models import GOLDEN, make_config


def test_the_published_variants_are_there() -> None:
    assert len([name for name in VARIANTS if not name.startswith("dino")]) == 9
    large = find_variant("vit_l_shrunk_ade20k")
    assert (large.image_size, large.tap_blocks, large.shrink_block) == (640, (7, 23), 8)
    assert find_variant("vit_b_ade20k").mean == (123.675, 116.28, 103.53)
    assert find_variant("vit_l_ade20k").mean == (127.5, 127.5, 127.5)


@pytest.mark.parametrize("name", VARIANTS)
def test_json_round_trip(name: str) -> None:
    config = find_variant(name)
    assert SegViTConfig.from_json(config.to_json()) == config


def test_json_from_before_the_encoder_features() -> None:
    values = json.loads(make_config().to_json())
    for name in ("keeps_prefix", "num_registers", "layer_scale", "position", "rope_theta",
                 "norm_eps"):  # fmt: skip
        del values[name]
    assert SegViTConfig.from_json(json.dumps(values)) == make_config()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 3, "colour": 1}', "null"])
def test_foreign_json(text: str) -> None:
    with pytest.raises(ValueError, match="model config is not readable"):
        SegViTConfig.from_json(text)


@pytest.mark.parametrize("name", ["base", "single", "shrunk"])
def test_mmseg_dictionaries(name: str) -> None:
    dictionary = json.loads((GOLDEN / f"{name}_s0.json").read_text())["model_cfg"]
    config = SegViTConfig.from_mmseg(dictionary, name)
    head = {"base": "cascade", "single": "single", "shrunk": "shrunk"}[name]
    assert (config.head, config.image_size, config.embed_dim) == (head, 64, 64)
    assert config.num_classes == 7
    assert (config.shrink_block is not None) == (head == "shrunk")


def test_mmseg_dictionaries_of_other_models() -> None:
    dictionary = json.loads((GOLDEN / "base_s0.json").read_text())["model_cfg"]
    other = dictionary | {"decode_head": dictionary["decode_head"] | {"type": "UPerHead"}}
    with pytest.raises(ValueError, match=r"expected one of ATMHead.* got UPerHead"):
        SegViTConfig.from_mmseg(other)
    normed = dictionary | {"backbone": dictionary["backbone"] | {"final_norm": True}}
    with pytest.raises(ValueError, match="final_norm=True is not a SegViT"):
        SegViTConfig.from_mmseg(normed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 70}, "image_size must be a multiple of 16, got 70"),
        ({"embed_dim": 50}, "embed_dim must be a multiple of 3 heads"),
        ({"decoder_dim": 33}, "decoder_dim must be a multiple of 2 decoder heads"),
        ({"tap_blocks": (3, 1)}, "tap_blocks must be ascending blocks below depth 4"),
        ({"tap_blocks": (1, 4)}, "tap_blocks must be ascending"),
        ({"num_classes": 0}, "num_classes must be 1 to 65535"),
        ({"shrink_block": 2}, "shrink_block must be set exactly when head is 'shrunk'"),
        ({"decoder_stages": 2}, "decoder_stages must be 1, or more with head 'single', got 2"),
        ({"head": "single", "decoder_stages": 0}, "decoder_stages must be 1, or more"),
        ({"class_names": ("a",)}, "class_names must be 7 entries, got 1 entries"),
        ({"palette": ((1, 2, 3),)}, "palette must be 7 entries"),
    ],
)
def test_contradictions(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head must be one of cascade, single, shrunk, got 'fcn'"):
        replace(make_config(), head="fcn")


def test_shrink_block_lies_inside() -> None:
    with pytest.raises(ValueError, match="shrink_block must be 1 to 3, got 4"):
        make_config("shrunk", shrink_block=4)


def test_unknown_variant_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"model 'vit_x' is unknown; expected one of: vit_b_ade20k"
    ):
        find_variant("vit_x")


def test_palettes_do_not_repeat() -> None:
    for count in (2, 19, 60, 150, 171):
        assert len(set(distinct_palette(count))) == count
