"""`benchmarks.varied_weights`: labels that vary, and the same weights from the same seed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.varied_weights import main, vary_labels
from segvit.checkpoint import load_checkpoint
from tests.tiny_models import make_config, make_model


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
def test_labels_vary(head: str) -> None:
    model = make_model(make_config(head))
    vary_labels(model, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        shares = model(image).argmax(dim=1).flatten().bincount(minlength=7) / 64**2
    assert shares.max() < 0.95
    assert (shares > 0.01).sum() >= 2


def test_a_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["--model", "vit_t_landcover", "--seed", str(seed)]
        assert main([*arguments, "--out", str(tmp_path / f"{name}.safetensors")]) == 0
    first, same, other = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert load_checkpoint(tmp_path / "a.safetensors").config.name == "vit_t_landcover"
