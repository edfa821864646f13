"""What a run remembers, its learning rate and its averaged weights."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from segvit.training_state import (
    TrainingSettings,
    WeightAverage,
    load_state,
    restore,
    save_state,
)
from tests.tiny_models import make_config, make_model

SETTINGS = TrainingSettings("tiny", "landcover", 100, 4, 1e-3, 0.05, 10, 0)


def test_rate_warms_up_and_decays_to_nothing() -> None:
    rates = [SETTINGS.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(1e-3 * 0.5**0.9)
    assert rates[100] == 0
    assert all(before > after for before, after in pairwise(rates[10:]))


def test_average_follows_the_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = WeightAverage(model, decay=0.9)
        model.weight.fill_(1.0)
    average.update(model, step=0)  # decay (1 + 0) / (10 + 0)
    assert average.weights["weight"].item() == pytest.approx(0.9)
    average.update(model, step=10_000)
    assert average.weights["weight"].item() == pytest.approx(0.91)


def test_state_round_trip(tmp_path: Path) -> None:
    model = make_model(make_config())
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = WeightAverage(make_model(make_config(), seed=1))
    save_state(tmp_path / "state.pt", SETTINGS, 7, model, optimizer, average, 0.5)
    other = make_model(make_config(), seed=2)
    other_optimizer = torch.optim.AdamW(other.parameters())
    other_average = WeightAverage(other)
    state = load_state(tmp_path / "state.pt", SETTINGS)
    assert restore(state, other, other_optimizer, other_average) == (7, 0.5)
    assert all(torch.equal(value, other.state_dict()[k]) for k, value in model.state_dict().items())
    assert all(torch.equal(v, other_average.weights[k]) for k, v in average.weights.items())
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())


def test_longer_runs_may_go_on_and_others_may_not(tmp_path: Path) -> None:
    model = make_model(make_config())
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "state.pt"
    save_state(path, SETTINGS, 7, model, optimizer, WeightAverage(model), 0.5)
    load_state(path, replace(SETTINGS, max_steps=200))
    with pytest.raises(ValueError, match=r"of another run: --learning-rate was 0.001, now 0.1"):
        load_state(path, replace(SETTINGS, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"--seed was 0, now 1; give the same options"):
        load_state(path, replace(SETTINGS, seed=1))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_state(tmp_path / "none.pt", SETTINGS)
