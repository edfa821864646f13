"""The loss against the original implementation's losses and gradients."""

import json
import re

import numpy as np
import pytest
import torch

from segvit.atm import Prediction
from segvit.checkpoint import load_checkpoint
from segvit.key_maps import official_key
from segvit.loss import ATMLoss, mask_losses
from segvit.model import SegViTOutput
from tests.segvit.test_model import _without_dropout
from tests.tiny_models import GOLDEN
from tests.tolerances import GOLDEN_GRADIENT, GOLDEN_LOSS

LABELS = ("label", "label_second_all_ignore", "label_all_ignore")


@pytest.mark.parametrize("file", ["base_s0", "single_s0", "single_s3", "shrunk_s0"])
@pytest.mark.parametrize("variant", LABELS)
def test_losses_and_gradients_are_the_original_s(file: str, variant: str) -> None:
    golden = json.loads((GOLDEN / f"{file}.json").read_text())
    expected = golden["train"][variant]
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        image, labels = torch.from_numpy(arrays["img"]), torch.from_numpy(arrays["label"][:, 0])
    if variant == "label_second_all_ignore":
        labels[1] = 255
    elif variant == "label_all_ignore":
        labels[:] = 255
    model = _without_dropout(load_checkpoint(GOLDEN / f"{file}.pth"))
    # The original's loss reads so many predictions; with several stages there are more.
    count = golden["model_cfg"]["decode_head"]["loss_decode"]["dec_layers"]
    output = model(image)
    output = output._replace(aux=output.aux[: count - 1])
    losses = ATMLoss(model.config.num_classes)(output, labels)
    assert {f"decode.{name}" for name in losses} == {
        name for name in expected["losses"] if re.search("loss_", name)
    }
    for name, loss in losses.items():
        wanted = expected["losses"][f"decode.{name}"]
        assert loss.item() == pytest.approx(wanted, rel=GOLDEN_LOSS, abs=1e-7)
    torch.stack(list(losses.values())).sum().backward()
    norms = expected["grad_norm_and_sum"]
    compared = 0
    for name, parameter in model.named_parameters():
        golden_norm = norms.get(official_key(name, model.config))
        if golden_norm is None:
            continue
        norm = 0.0 if parameter.grad is None else parameter.grad.double().norm().item()
        assert norm == pytest.approx(golden_norm[0], rel=GOLDEN_GRADIENT, abs=1e-5), name
        compared += 1
    assert compared == len([name for name in norms if "empty_weight" not in name])


def test_focal_and_dice_by_hand() -> None:
    focal, dice = mask_losses(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    # p = 1/2: alpha * (1/2)^2 * ln 2, over a positive (0.25) and a negative (0.75) pixel.
    assert focal.item() == pytest.approx((0.25 + 0.75) / 2 * 0.25 * np.log(2))
    assert dice.item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


def test_the_parts_of_a_batch_add_up_to_it() -> None:
    """However it is cut: a part without any label, and one with most of the masks."""
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 4, 5), torch.randn(4, 4, 4, 4)
    labels = torch.randint(0, 4, (4, 16, 16))
    labels[0], labels[1] = 255, 3
    loss = ATMLoss(4)
    whole = loss(SegViTOutput(logits, masks, ()), labels)
    for cuts in ([1, 3], [2, 2], [1, 1, 1, 1]):
        parts = list(zip(*(tensor.split(cuts) for tensor in (logits, masks, labels)), strict=True))
        pairs = torch.stack([loss.count_pairs(part) for _, _, part in parts]).sum(0)
        assert pairs.tolist() == loss.count_pairs(labels).tolist() == [16, 9]
        found = [loss(SegViTOutput(a, b, ()), part, pairs) for a, b, part in parts]
        for name, value in whole.items():
            assert sum(part[name] for part in found).item() == pytest.approx(value.item(), rel=1e-6)


def _random_output(classes: int = 4) -> SegViTOutput:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, classes, classes + 1), torch.randn(2, classes, 4, 4)
    return SegViTOutput(logits, masks, (Prediction(logits * 2, masks * 2),))


def test_no_label_at_all_leaves_classification_only() -> None:
    losses = ATMLoss(4)(_random_output(), torch.full((2, 16, 16), 255))
    assert losses["loss_mask"] == losses["loss_dice"] == losses["loss_mask_0"] == 0
    assert losses["loss_ce"] > 0


def test_labels_of_any_size() -> None:
    labels = torch.zeros(2, 7, 9, dtype=torch.int64)
    losses = ATMLoss(4)(_random_output(), labels)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("wrong", [4, 254, -1])
def test_labels_that_are_no_class(wrong: int) -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, 0, 0] = wrong
    with pytest.raises(ValueError, match="labels must be 0 to 3 or 255"):
        ATMLoss(4)(_random_output(), labels)
