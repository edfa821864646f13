"""What a run remembers, its log and its averaged weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segvit.recipes import TrainingSettings
from segvit.training_state import (
    TrainingLog,
    WeightAverage,
    load_state,
    restore,
    save_state,
)
from tests.tiny_models import make_config, make_model

SETTINGS = TrainingSettings(model="tiny", max_steps=100, batch_size=4, learning_rate=1e-3)


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


def test_no_average_at_all() -> None:
    model = torch.nn.Linear(3, 3)
    average = WeightAverage(model, decay=0.0)
    with torch.no_grad():
        model.weight.add_(0.1)
    average.update(model, step=500)
    assert torch.equal(average.weights["weight"], model.weight)


def test_state_round_trip(tmp_path: Path) -> None:
    model = make_model(make_config())
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = WeightAverage(make_model(make_config(), seed=1), 0.9)
    save_state(tmp_path / "state.pt", SETTINGS, 7, model, optimizer, average, 0.5)
    other = make_model(make_config(), seed=2)
    other_optimizer = torch.optim.AdamW(other.parameters())
    other_average = WeightAverage(other, 0.9)
    state = load_state(tmp_path / "state.pt", SETTINGS)
    assert restore(state, other, other_optimizer, other_average) == (7, 0.5)
    assert all(torch.equal(value, other.state_dict()[k]) for k, value in model.state_dict().items())
    assert all(torch.equal(v, other_average.weights[k]) for k, v in average.weights.items())
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())


def test_longer_runs_may_go_on_and_others_may_not(tmp_path: Path) -> None:
    model = make_model(make_config())
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "state.pt"
    save_state(path, SETTINGS, 7, model, optimizer, WeightAverage(model, 0.9), 0.5)
    load_state(path, replace(SETTINGS, max_steps=200, eval_every=9))
    with pytest.raises(ValueError, match=r"of another run: --learning-rate was 0.001, now 0.1"):
        load_state(path, replace(SETTINGS, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"--seed was 0, now 1; give the same options"):
        load_state(path, replace(SETTINGS, seed=1))
    with pytest.raises(ValueError, match=r"--resize was None, now \(520, 520\)"):
        load_state(path, replace(SETTINGS, resize=(520, 520)))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_state(tmp_path / "none.pt", SETTINGS)


def test_states_that_cannot_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"settings": {"model": "tiny", "dataset": "landcover"}}, path)
    with pytest.raises(ValueError, match=r"by an older version, without --batch-size; start again"):
        load_state(path, SETTINGS)
    for damaged in (b"", b"no state", path.read_bytes()[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is no state of a run, or damaged"):
            load_state(path, SETTINGS)


def test_log_tells_floats_apart_and_forgets_what_comes_again(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.csv")
    log.keep_until(3)  # nothing there yet
    for step in (2, 4, 6):
        log.write({"step": step, "loss": 1 + 2**-23 * step, "miou": 0.5 if step == 4 else None})
    log.keep_until(4)
    log.write({"step": 6, "loss": 0.25, "miou": None})
    lines = (tmp_path / "log.csv").read_text().split()
    assert lines == ["step,loss,miou", "2,1.00000024,", "4,1.00000048,0.5", "6,0.25,"]
