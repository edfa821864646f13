"""What a training run must remember to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segvit.atomic import replace_file

# Settings that decide the result: a resumed run must have the same.
_FIXED = ("model", "dataset", "batch_size", "learning_rate", "weight_decay", "warmup_steps", "seed")


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a run that its result depends on."""

    model: str
    dataset: str
    max_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    seed: int

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of a step: linear warm-up, then polynomial decay of power 0.9."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        left = (self.max_steps - step) / max(self.max_steps - self.warmup_steps, 1)
        return float(self.learning_rate * max(left, 0.0) ** 0.9)


class WeightAverage:
    """An exponential moving average of a model's weights.

    The decay grows from 0.1 to `decay` over the first steps, so that an early average is not made
    of random weights.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.weights = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the weights after `step`."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = [(self.weights[key], value) for key, value in model.state_dict().items()]
        torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], rate)


def save_state(
    path: Path,
    settings: TrainingSettings,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    best_miou: float,
) -> None:
    """Write everything a resumed run needs, replacing the last state only when complete."""
    state = {
        "settings": asdict(settings),
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.weights,
        "best_miou": best_miou,
    }
    with replace_file(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, settings: TrainingSettings) -> dict[str, Any]:
    """Return a saved state, after checking that it belongs to a run of these settings.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is of another run; the message names what differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: '{path}' does not exist; leave --resume out")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved, wanted = state["settings"], asdict(settings)
    for name in _FIXED:
        if saved[name] != wanted[name]:
            option = name.replace("_", "-")
            raise ValueError(
                f"'{path}' is of another run: --{option} was {saved[name]}, now {wanted[name]}; "
                "give the same options or another --out"
            )
    return state


def restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
) -> tuple[int, float]:
    """Fill model, optimizer and average from a state; return its step and best mIoU."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    weights: dict[str, Tensor] = state["average"]
    for key, value in weights.items():
        average.weights[key].copy_(value)
    return int(state["step"]), float(state["best_miou"])
