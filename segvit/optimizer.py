"""The optimizer of a training run: parameter groups, and the learning rate of each step.

Sources: layer-wise decay from BEiT (arXiv 2106.08254); the rest, see `segvit.recipes`.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from segvit.model import SegViT
from segvit.recipes import TrainingSettings

WARMUP_RATIO = 1e-6


def build_optimizer(model: SegViT, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW over a model's parameters; each group's `lr_scale` multiplies its rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = settings.weight_decay if _decays(name, parameter, settings) else 0.0
        key = (_rate_scale(name, model.config.depth, settings), decay)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": settings.learning_rate * scale,
                "lr_scale": scale,
                "weight_decay": decay,
            }
            for (scale, decay), parameters in groups.items()
        ],
        betas=(0.9, settings.beta2),
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int
) -> None:
    """Give every group its rate of a step."""
    rate = learning_rate_at(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def learning_rate_at(settings: TrainingSettings, step: int) -> float:
    """Return the backbone's rate of a step, counted from 0.

    Both schedules warm up linearly and decay as a polynomial. `poly` decays from the first step
    on and multiplies the warm-up in; `poly-after-warmup` warms up to the highest rate first.
    """
    warmup = settings.warmup_steps
    if settings.schedule == "poly":
        missing = max(1 - step / warmup, 0.0) * (1 - WARMUP_RATIO) if warmup else 0.0
        left = max(1 - step / settings.max_steps, 0.0)
        return settings.learning_rate * float(left**settings.power) * (1 - missing)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (settings.max_steps - step) / max(settings.max_steps - warmup, 1)
    return float(settings.learning_rate * max(left, 0.0) ** settings.power)


def _decays(name: str, parameter: nn.Parameter, settings: TrainingSettings) -> bool:
    """Return whether weight decay applies: to matrices, or to all but the backbone's norms."""
    if settings.decays == "matrices":
        return parameter.ndim > 1
    return not re.match(r"backbone\..*norm", name)


def _rate_scale(name: str, depth: int, settings: TrainingSettings) -> float:
    """Return the factor of a parameter's rate.

    The embeddings are layer 0, block i is layer i + 1, the decode head is the last, `depth + 1`.
    """
    if not name.startswith("backbone."):
        return settings.head_lr_factor
    block = re.match(r"backbone\.blocks\.(\d+)\.", name)
    layer = int(block[1]) + 1 if block else 0
    return float(settings.layer_decay ** (depth + 1 - layer))
