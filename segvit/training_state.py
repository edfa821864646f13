"""What a training run must remember to go on as if it had never stopped."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segvit.atomic import replace_file
from segvit.recipes import TrainingSettings

# Settings that a resumed run may change; all others decide the result.
_FREE = ("max_steps", "eval_every")


class WeightAverage:
    """An exponential moving average of a model's weights.

    The decay grows from 0.1 to `decay` over the first steps, so that an early average is not made
    of random weights. With a decay of 0 the average is the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the weights after `step`."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = [(self.weights[key], value) for key, value in model.state_dict().items()]
        torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], rate)


class TrainingLog:
    """A CSV file with a row every few steps, the same columns throughout.

    Nine digits tell any two float32 values apart.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drop the rows after a step: a run resumed there writes them again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = [row for row in reader if row["step"] and int(row["step"]) <= step]
        with replace_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, row: Mapping[str, float | None]) -> None:
        """Append a row; None leaves a cell empty."""
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(
                {key: "" if value is None else f"{value:.9g}" for key, value in row.items()}
            )


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
        ValueError: if it is damaged or of another run; the message names what differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: '{path}' does not exist; leave --resume out")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["settings"]
    except Exception as error:  # torch has no one error for what is no state of its own
        raise ValueError(
            f"'{path}' is no state of a run, or damaged ({type(error).__name__}); start again in "
            "another --out, from its last.safetensors with --checkpoint"
        ) from error
    wanted = asdict(settings)
    for name in (field.name for field in fields(settings) if field.name not in _FREE):
        if name not in saved:
            raise ValueError(
                f"'{path}' was written by an older version, without --{name.replace('_', '-')}; "
                "start again in another --out, from its last.safetensors with --checkpoint"
            )
        if saved[name] != wanted[name]:
            raise ValueError(
                f"'{path}' is of another run: --{name.replace('_', '-')} was {saved[name]}, now "
                f"{wanted[name]}; give the same options or another --out"
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
