"""The reference model against frozen outputs of the original implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segvit.atm import Prediction
from segvit.checkpoint import load_checkpoint
from segvit.model import SegViT, build_model, mix_classes
from tests.tiny_models import GOLDEN, make_config, make_model
from tests.tolerances import GOLDEN_LABELS, GOLDEN_SCORES

FILES = ("base_s0", "single_s0", "single_s3", "shrunk_s0")
# Keys the eps case shrinks until the variances come near the epsilon.
EPS_PARTS = ("backbone.pos_embed", "backbone.patch_embed.", "decode_head.projections.")


def _golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def _assert_scores(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=GOLDEN_SCORES, rtol=0)
    assert (got.argmax(1) == expected.argmax(1)).float().mean() >= GOLDEN_LABELS


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("image", "scores"), [("img", "pred_eval"), ("img_alt", "encode_decode_alt")]
)
def test_scores_are_the_original_s(file: str, image: str, scores: str) -> None:
    golden = _golden(file)
    model = load_checkpoint(GOLDEN / f"{file}.pth")
    with torch.inference_mode():
        _assert_scores(model(golden[image]), golden[scores])


@pytest.mark.parametrize("file", FILES)
def test_taps_are_the_original_s(file: str) -> None:
    golden = _golden(file)
    model = load_checkpoint(GOLDEN / f"{file}.pth")
    with torch.inference_mode():
        taps = model.backbone(golden["img_alt"])
    assert len(taps) == len(model.config.tap_blocks)
    for index, (tokens, grid) in enumerate(taps):
        expected = golden[f"alt/backbone.{index}"]
        if expected.ndim == 4:
            assert grid == tuple(expected.shape[2:])
            expected = expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, expected, atol=GOLDEN_SCORES, rtol=1e-5)


@pytest.mark.parametrize("file", FILES)
def test_training_outputs_are_the_original_s(file: str) -> None:
    golden = _golden(file)
    model = _without_dropout(load_checkpoint(GOLDEN / f"{file}.pth"))
    output = model(golden["img"])
    predictions = {"": output, **{f"aux{i}.": aux for i, aux in enumerate(output.aux)}}
    for prefix, prediction in predictions.items():
        expected = golden[f"train/{prefix}pred_logits"]
        torch.testing.assert_close(prediction.class_logits, expected, atol=1e-4, rtol=1e-5)
    for index, aux in enumerate(output.aux):
        expected = golden[f"train/aux{index}.pred_masks"]
        torch.testing.assert_close(aux.mask_logits, expected, atol=1e-4, rtol=1e-5)


def test_layer_norm_epsilons_are_the_original_s() -> None:
    golden = _golden("extras")
    model = load_checkpoint(GOLDEN / "base_s0.pth")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scaled = name.startswith(EPS_PARTS[:2]) or (
                name.startswith(EPS_PARTS[2]) and ".linear." in name
            )
            if scaled:
                parameter.mul_(1e-3)
        _assert_scores(model(_golden("base_s0")["img"]), golden["eps/pred"])


def test_a_class_token_that_stays_in_the_encoder() -> None:
    """The original can keep it too; its published models do not."""
    published = load_checkpoint(GOLDEN / "base_s0.pth")
    model = build_model(replace(published.config, keeps_prefix=True))
    model.load_state_dict(published.state_dict())
    golden, image = _golden("extras"), _golden("base_s0")["img"]
    with torch.inference_mode():
        tokens, grid = model.backbone(image)[-1]
        features = tokens.transpose(1, 2).unflatten(2, grid)
        torch.testing.assert_close(features, golden["withcls/feat_last"], atol=1e-5, rtol=1e-5)
        _assert_scores(model(image), golden["withcls/pred"])


def test_a_norm_behind_the_encoder() -> None:
    golden = _golden("extras")
    model = load_checkpoint(GOLDEN / "base_s0.pth")
    with torch.inference_mode():
        *taps, (tokens, grid) = model.backbone(_golden("base_s0")["img"])
        weight, bias = (golden[f"finalnorm/ln1.{name}"] for name in ("weight", "bias"))
        normed = F.layer_norm(tokens, weight.shape, weight, bias, model.config.norm_eps)
        final = model.decode_head([*taps, (normed, grid)])[-1]
        _assert_scores(mix_classes(final, (64, 64), (64, 64)), golden["finalnorm/pred"])


def test_odd_token_counts() -> None:
    """The original's head, given a class token as well, attends to it and drops it from masks."""
    golden = _golden("extras")
    head = load_checkpoint(GOLDEN / "base_s0.pth").decode_head
    with torch.inference_mode():
        queries, masks = head.query_embed.weight.expand(2, -1, -1), torch.zeros(2, 7, 16)
        for index, (projection, stage) in enumerate(
            zip(head.projections, head.stages, strict=True)
        ):
            memory = projection(golden[f"oddtok/in{2 - index}"])  # deepest first
            for layer in stage:
                queries, stage_masks = layer(queries, memory)
            masks = masks + stage_masks[:, :, 1:]
        final = Prediction(head.class_embed(queries), masks.unflatten(2, (4, 4)))
        _assert_scores(mix_classes(final, (64, 64), (64, 64)), golden["oddtok/pred"])


def _without_dropout(model: SegViT) -> SegViT:
    """In training mode, but deterministic."""
    model.train()
    for module in model.modules():
        for name in ("dropout", "drop_path"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("head", ["cascade", "single"])
@pytest.mark.parametrize("size", [(48, 80), (16, 64), (33, 50)])
def test_any_size_works_without_shrinking(head: str, size: tuple[int, int]) -> None:
    model = make_model(make_config(head))
    with torch.inference_mode():
        scores = model(torch.randn(2, 3, *size))
    assert scores.shape == (2, 7, *size)
    assert scores.isfinite().all()


def test_a_wide_grid_is_not_mistaken_for_a_square() -> None:
    """16x64 pixels make 1x4 patches: as many as a 2x2 square. Columns must stay columns."""
    model = make_model(make_config())
    image = torch.zeros(1, 3, 16, 64)
    changed = image.clone()
    changed[..., 48:] = 2.0
    with torch.inference_mode():
        before, after = model.backbone(image)[-1], model.backbone(changed)[-1]
    assert before[1] == after[1] == (1, 4)


def test_shrunk_takes_its_crop_and_squares_only() -> None:
    model = make_model(make_config("shrunk"))
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7, 64, 64)
        assert model(torch.randn(1, 3, 96, 96)).shape == (1, 7, 96, 96)
        with pytest.raises(ValueError, match="cannot take 64x96: the Shrunk head restores"):
            model(torch.randn(1, 3, 64, 96))


def test_odd_grids_shrink_to_half_rounded_up() -> None:
    model = make_model(make_config("shrunk", image_size=80))
    with torch.inference_mode():
        taps = model.backbone(torch.randn(1, 3, 80, 80))
        assert model(torch.randn(1, 3, 80, 80)).shape == (1, 7, 80, 80)
    assert [grid for _, grid in taps] == [(5, 5), (3, 3)]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be \(B, 3, H, W\)"):
        make_model(make_config())(torch.zeros(shape))


def test_class_token_has_no_effect() -> None:
    model = make_model(make_config())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model(image)
        model.backbone.cls_token.add_(100.0)
        model.backbone.pos_embed[:, 0].add_(100.0)
        assert torch.equal(model(image), before)


def test_scores_mix_every_class_at_full_resolution() -> None:
    """Equation by hand: softmax of class logits times sigmoid of upsampled mask logits."""
    model = make_model(make_config())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        scores = model(image)
        last = model.decode_head(model.backbone(image))[-1]
        masks = torch.nn.functional.interpolate(last.mask_logits, (64, 64), mode="bilinear")
        classes = last.class_logits.softmax(-1)
        expected = sum(classes[0, q, :7, None, None] * masks[0, q].sigmoid() for q in range(7))
    torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=0)


def test_new_models_are_the_same_for_a_seed() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_model(make_config("shrunk")).state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_upsampling_queries_start_as_positions() -> None:
    """Neighbouring positions are more alike than distant ones, in both directions."""
    model = build_model(make_config("shrunk", image_size=128))
    for code in (model.decode_head.upsample_embed.weight, model.backbone.pos_embed[0, 1:]):
        grid = torch.nn.functional.normalize(code.detach(), dim=-1).unflatten(0, (8, 8))
        here = grid[3, 3]
        for near, far in ((grid[3, 4], grid[3, 7]), (grid[4, 3], grid[7, 3])):
            assert here @ near > here @ far
