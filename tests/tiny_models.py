"""Small models of every head, with weights that look trained: nothing is at its initial value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segvit.config import SegViTConfig
from segvit.model import SegViT, build_model

GOLDEN = Path(__file__).parent / "golden"
# What makes a tiny ViT one in the style of ...
DINO_STYLES: dict[str, dict[str, object]] = {
    "dinov2": {"patch_size": 14, "image_size": 56, "keeps_prefix": True, "layer_scale": True},
    "dinov2_reg": {"patch_size": 14, "image_size": 56, "keeps_prefix": True, "num_registers": 4,
                   "layer_scale": True},
    "dinov3": {"keeps_prefix": True, "num_registers": 4, "layer_scale": True, "position": "rotary",
               "norm_eps": 1e-5},
}  # fmt: skip
TAPS = {"cascade": (1, 2, 3), "single": (3,), "shrunk": (1, 3)}


def make_config(head: str = "cascade", **changes: object) -> SegViTConfig:
    values: dict[str, object] = {
        "name": f"tiny_{head}",
        "image_size": 64,
        "embed_dim": 48,
        "depth": 4,
        "num_heads": 3,
        "tap_blocks": TAPS[head],
        "decoder_dim": 32,
        "decoder_heads": 2,
        "decoder_layers": 2,
        "num_classes": 7,
        "head": head,
        "shrink_block": 2 if head == "shrunk" else None,
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
    }
    return SegViTConfig(**(values | changes))


def make_dino_config(style: str, head: str = "cascade", **changes: object) -> SegViTConfig:
    return make_config(head, **({"name": f"tiny_{style}"} | DINO_STYLES[style] | changes))


def make_model(config: SegViTConfig, seed: int = 0) -> SegViT:
    """Every weight random, norm scales and biases too: a fold that forgets one shows."""
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.3).add_(1.0 if "norm" in name and "weight" in name else 0.0)
    return model


def random_images(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blurred noise, so that neighbouring patches differ and pixels do not only average out."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3))
    fine = rng.integers(-20, 21, (count, height, width, 3))
    spread = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width] + fine
    return spread.clip(0, 255).astype(np.uint8)
