"""Encoders in DINOv2's and DINOv3's style: folded, traced and cast, they give the same scores."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.deploy import DeployModel
from export.passes import check_passes, deploy_passes
from export.trace import trace_model
from segvit.model import SegViT
from segvit.prediction import predict_scores
from tests.graphs import relative_rms, run_graph
from tests.tiny_models import (
    DINO_STYLES,
    make_config,
    make_dino_config,
    make_model,
    random_images,
)
from tests.tolerances import BF16_RMS, FOLD_RELATIVE, ORT_FP16_RMS, ORT_FP32_RMS

STYLES = tuple(DINO_STYLES)
# What is traced is small: the head is no different from other models'.
DEPTH = 2
SMALL: dict[str, object] = {"depth": DEPTH, "tap_blocks": (1,), "decoder_layers": 1}


def _relative_error(model: SegViT, grid: tuple[int, int]) -> float:
    patch = model.config.patch_size
    size = (grid[0] * patch, grid[1] * patch)
    images = random_images(2, *size)
    expected = predict_scores(model, images)
    with torch.no_grad():
        got = DeployModel(model, size, "scores")(torch.from_numpy(images)).numpy()
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("head", ["cascade", "single"])
@pytest.mark.parametrize("grid", [(4, 4), (6, 3), (5, 7)])
def test_scores_equal(style: str, head: str, grid: tuple[int, int]) -> None:
    assert _relative_error(make_model(make_dino_config(style, head)), grid) < FOLD_RELATIVE


def test_single_head_with_several_taps() -> None:
    config = make_dino_config("dinov3", "single", tap_blocks=(1, 3))
    assert _relative_error(make_model(config), (4, 4)) < FOLD_RELATIVE


@pytest.mark.parametrize("name", ["layer_scale", "position", "keeps_prefix"])
def test_each_feature_alone(name: str) -> None:
    value: object = "rotary" if name == "position" else True
    assert _relative_error(make_model(make_config(**{name: value})), (4, 6)) < FOLD_RELATIVE


def test_layer_scale_in_a_shrunk_model() -> None:
    model = make_model(make_config("shrunk", layer_scale=True))
    assert _relative_error(model, (4, 4)) < FOLD_RELATIVE


@pytest.mark.parametrize(("position", "has_effect"), [("learned", False), ("rotary", True)])
def test_a_key_constant_has_an_effect_only_where_it_turns(position: str, has_effect: bool) -> None:
    """Why its fold differs."""
    model = make_model(make_config(position=position))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.backbone(image)[-1][0]
        for block in model.backbone.blocks:
            block.attn.qkv.bias.chunk(3)[1].zero_()
        change = (model.backbone(image)[-1][0] - before).abs().max()
    assert (change > 1e-3) == has_effect


def test_the_reference_is_left_as_it_was() -> None:
    model = make_model(make_dino_config("dinov3"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (DeployModel(model, (64, 64)).state_dict() for _ in range(2))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@lru_cache
def _traced(style: str, batch: int | None = 1) -> tuple[SegViT, ir.Model]:
    model = make_model(make_dino_config(style, "single", **SMALL))
    size = (model.config.image_size,) * 2
    graph = trace_model(DeployModel(model, size, "scores"), size, batch)
    deploy_passes("fp32")[0](graph)
    return model, graph


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", ORT_FP32_RMS), ("fp16", ORT_FP16_RMS), ("bf16", BF16_RMS)]
)
def test_graphs_stay_close(style: str, precision: str, tolerance: float) -> None:
    model, traced = _traced(style)
    graph = traced.clone()
    for graph_pass in (*deploy_passes(precision), *check_passes()):
        graph_pass(graph)
    images = random_images(1, model.config.image_size, model.config.image_size)
    (got,) = run_graph(graph, images)
    assert 0 < relative_rms(got, predict_scores(model, images)) < tolerance


@pytest.mark.parametrize("style", STYLES)
def test_passes_twice_are_passes_once(style: str) -> None:
    graph = _traced(style)[1].clone()
    names, cast, sums, _ = deploy_passes("fp16")
    assert not names(graph).modified
    for graph_pass in (cast, sums):
        assert graph_pass(graph).modified
        assert not graph_pass(graph).modified


def test_dynamic_batches() -> None:
    model, graph = _traced("dinov3", None)
    images = random_images(3, model.config.image_size, model.config.image_size)
    (together,) = run_graph(graph, images)
    assert relative_rms(together, predict_scores(model, images)) < ORT_FP32_RMS


def test_blocks_share_the_rotations() -> None:
    graph = _traced("dinov3")[1].graph
    head_dim = 16
    tables = [v for v in graph.initializers.values() if list(v.shape or ()) == [21, head_dim]]
    assert len(tables) == 2
    assert [len(list(table.uses())) for table in tables] == [2 * DEPTH] * 2


@pytest.mark.parametrize("style", STYLES)
def test_every_node_belongs_to_a_part(style: str) -> None:
    """So that the audit counts no kernel of these encoders as "other"."""
    names = [node.name or "" for node in _traced(style)[1].graph]
    outside = [
        n for n in names if n.split("/")[0] not in ("patch_embed", "encoder", "head", "tail")
    ]
    assert not outside
    assert any(name.startswith("head/projections/0/") and "Slice" in name for name in names)
