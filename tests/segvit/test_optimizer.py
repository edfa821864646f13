"""`segvit.optimizer`: the published groups and schedule, layer-wise decay, and land cover's own."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from segvit.checkpoint import load_checkpoint
from segvit.key_maps import official_key
from segvit.model import SegViT
from segvit.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from segvit.recipes import RECIPES, TrainingSettings
from tests.tiny_models import GOLDEN, make_config, make_model

PUBLISHED = RECIPES["ade20k_vit_l"]


def _groups(model: SegViT, settings: TrainingSettings) -> dict[str, tuple[float, float]]:
    """Each parameter's rate and weight decay, by name."""
    found = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in build_optimizer(model, settings).param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert set(found) == {name for name, _ in model.named_parameters()}
    return found


def test_groups_are_the_published_ones() -> None:
    golden = json.loads((GOLDEN / "extras.json").read_text())["optimizer_groups_[lr,wd]"]
    model = load_checkpoint(GOLDEN / "base_s0.pth")
    found = {
        official_key(name, model.config): values
        for name, values in _groups(model, PUBLISHED).items()
    }
    assert len(golden) == 11
    for name, values in golden.items():
        assert found[name] == pytest.approx(values), name
    norms = {name for name, (_, decay) in found.items() if decay == 0}
    assert norms == {name for name in found if ".ln" in name}


def test_land_cover_shrinks_matrices_at_one_rate() -> None:
    model = make_model(make_config("shrunk"))
    groups = _groups(model, RECIPES["landcover"])
    assert {rate for rate, _ in groups.values()} == {5e-4}
    for name, parameter in model.named_parameters():
        assert groups[name][1] == (0.05 if parameter.ndim > 1 else 0.0)


def test_deeper_layers_learn_faster() -> None:
    settings = replace(PUBLISHED, layer_decay=0.5)
    groups = _groups(make_model(make_config(depth=4)), settings)
    scales = {name: rate / settings.learning_rate for name, (rate, _) in groups.items()}
    expected = {
        "backbone.patch_embed.weight": 0.5**5,
        "backbone.cls_token": 0.5**5,
        "backbone.pos_embed": 0.5**5,
        "backbone.blocks.0.norm1.weight": 0.5**4,
        "backbone.blocks.3.mlp.fc2.bias": 0.5,
        "decode_head.class_embed.weight": 10.0,
    }
    assert {name: scales[name] for name in expected} == pytest.approx(expected)


def test_the_published_rate_decays_from_the_start_and_warms_up_inside() -> None:
    settings = replace(PUBLISHED, max_steps=16_000)
    rates = [learning_rate_at(settings, step) for step in range(16_001)]
    assert rates[0] == pytest.approx(2e-5 * 1e-6)
    assert rates[750] == pytest.approx(2e-5 * (1 - 750 / 16_000) * (0.5 + 0.5e-6))
    assert rates[1500] == pytest.approx(2e-5 * (1 - 1500 / 16_000))
    assert rates[8000] == pytest.approx(1e-5)
    assert rates[16_000] == 0
    squared = replace(settings, power=2.0)
    assert learning_rate_at(squared, 8000) == pytest.approx(2e-5 / 4)
    assert learning_rate_at(replace(settings, warmup_steps=0), 0) == 2e-5


def test_land_cover_warms_up_and_then_decays_to_nothing() -> None:
    settings = TrainingSettings(max_steps=100, learning_rate=1e-3, warmup_steps=10)
    rates = [learning_rate_at(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(1e-3 * 0.5**0.9)
    assert rates[100] == 0
    assert all(before > after for before, after in pairwise(rates[10:]))


def test_every_group_follows_the_schedule() -> None:
    optimizer = build_optimizer(make_model(make_config()), PUBLISHED)
    set_learning_rate(optimizer, PUBLISHED, 80_000)
    assert {round(group["lr"], 12) for group in optimizer.param_groups} == {1e-5, 1e-4}
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)
