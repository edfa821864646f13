"""`segvit.train` on real tiles with a tiny model: resuming, interrupting, starting points."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from segvit import train
from segvit.atm import set_dropout
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.config import LANDCOVER_CLASSES, SegViTConfig
from segvit.datasets import training_data
from segvit.datasets.landcover_training import TrainingTiles
from segvit.datasets.training_data import Batch
from segvit.evaluation import Labelled
from segvit.inference import Predict
from segvit.train import main
from tests.tiny_models import make_config, make_model

NAMES = tuple(name for name, _ in LANDCOVER_CLASSES)
QUICK = ("--batch-size", "2", "--eval-every", "2", "--warmup-steps", "2", "--device", "cpu",
         "--workers", "0")  # fmt: skip


def _config(name: str) -> SegViTConfig:
    head = "shrunk" if "shrunk" in name else "cascade"
    return make_config(head, image_size=256, class_names=NAMES)


class _OneTile:
    """An evaluation of one black tile instead of a continent."""

    class_names = NAMES

    def __init__(self, split: str) -> None:
        assert split == "val"

    def __len__(self) -> int:
        return 1

    def label(self, predict: Predict, index: int) -> Labelled:
        image = np.zeros((256, 256, 3), np.uint8)
        return Labelled(image, predict(image[None])[0].argmax(0), image[..., 0])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_variant", _config)
    monkeypatch.setattr(training_data, "LandCoverTiles", _OneTile)


def _train(out: Path, *arguments: object) -> int:
    return main(["--out", str(out), *QUICK, *map(str, arguments)])


def _read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.safetensors").state_dict()


@pytest.mark.parametrize("options", [(), ("--workers", 2, "--accumulate", 2, "--log-every", 1)])
def test_a_resumed_run_ends_where_a_whole_one_does(
    tmp_path: Path, options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert _train(whole, "--max-steps", 4, *options) == 0
    interrupt = pytest.MonkeyPatch()
    add_gradients = train.TrainingRun._add_gradients

    def interrupted(run: train.TrainingRun, batch: Batch) -> object:
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
        return add_gradients(run, batch)

    interrupt.setattr(train.TrainingRun, "_add_gradients", interrupted)
    assert _train(halves, "--max-steps", 4, *options) == 130
    interrupt.undo()
    assert "stopped at step 2; go on with the same command and --resume" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert _train(halves, "--max-steps", 4, *options, "--resume") == 0
    expected, resumed = _weights(whole), _weights(halves)
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())
    first, second = (torch.load(f / "state.pt", weights_only=True) for f in (whole, halves))
    assert all(torch.equal(value, second["model"][k]) for k, value in first["model"].items())
    assert (whole / "log.csv").read_text() == (halves / "log.csv").read_text()


def test_steps_after_the_last_state_are_logged_once(tmp_path: Path) -> None:
    """A run that died leaves rows of steps that it takes again."""
    out = tmp_path / "run"
    assert _train(out, "--max-steps", 2, "--log-every", 1) == 0
    with (out / "log.csv").open("a") as file:
        file.write("3,0.1\n")
    assert _train(out, "--max-steps", 4, "--log-every", 1, "--resume") == 0
    rows = _read_log(out)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["miou"]) for row in rows] == [False, True, False, True]
    assert all(float(row["loss_dice_0"]) > 0 for row in rows)


def test_what_a_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path / "run", "--max-steps", 4, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 4
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "state.pt", "log.csv"}
    rows = _read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == ["2", "4"]
    assert {"learning_rate", "loss_ce", "loss_mask_0", "loss_dice_1", "miou"} <= set(rows[0])
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").config == _config("cascade")


def test_a_finished_run_can_be_written_in_half_precision(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert _train(out, "--max-steps", 2) == 0
    whole, size = _weights(out), (out / "last.safetensors").stat().st_size
    assert _train(out, "--max-steps", 2, "--resume", "--half") == 0
    assert (out / "last.safetensors").stat().st_size < 0.6 * size
    for key, value in _weights(out).items():
        assert torch.equal(value, whole[key].half().float())


def test_training_lowers_the_loss_on_one_batch(tmp_path: Path) -> None:
    """The same tiles again and again: a model that learns at all learns them."""
    run_step = TrainingTiles.batch
    patch = pytest.MonkeyPatch()
    patch.setattr(TrainingTiles, "batch", lambda self, step, indices: run_step(self, 0, indices))
    assert _train(tmp_path / "run", "--max-steps", 16, "--eval-every", 4) == 0
    patch.undo()
    rows = _read_log(tmp_path / "run")
    totals = [sum(float(v) for k, v in row.items() if k.startswith("loss")) for row in rows]
    assert totals[-1] < 0.9 * totals[0]


def test_starting_from_a_backbone(tmp_path: Path) -> None:
    cascade = make_model(_config("cascade"))
    save_checkpoint(cascade, tmp_path / "cascade.safetensors")
    model = make_model(_config("shrunk"), seed=1)
    head = {key: value.clone() for key, value in model.decode_head.state_dict().items()}
    positions = model.backbone.pos_embed.clone()
    # The shrinking block has the weights of any other: only the decode heads differ.
    train._take_backbone(model, tmp_path / "cascade.safetensors")
    for key, value in model.backbone.state_dict().items():
        expected = cascade.backbone.state_dict()[key] if key != "pos_embed" else 2 * positions
        assert torch.equal(value, expected)
    assert all(torch.equal(v, head[k]) for k, v in model.decode_head.state_dict().items())
    with pytest.raises(ValueError, match=r"the backbone of .* does not fit 'tiny_cascade'"):
        train._take_backbone(
            make_model(make_config(embed_dim=96)), tmp_path / "cascade.safetensors"
        )


def test_dropout_can_be_off_and_leaves_the_backbone_alone() -> None:
    for head in ("cascade", "single", "shrunk"):
        model = make_model(make_config(head)).train()
        image = torch.randn(1, 3, 64, 64)
        assert not torch.equal(model(image).mask_logits, model(image).mask_logits)
        set_dropout(model.decode_head, 0.0)
        assert torch.equal(model(image).mask_logits, model(image).mask_logits)
        assert torch.equal(model(image).class_logits, model(image).class_logits)


def test_micro_batches_and_recomputed_activations_take_the_same_steps(tmp_path: Path) -> None:
    options = ("--max-steps", 4, "--batch-size", 4, "--log-every", 1, "--dropout", 0)
    ways = {
        "whole": (),
        "halves": ("--accumulate", 2),
        "quarters": ("--accumulate", 4, "--checkpoint-activations"),
    }
    logs = {}
    for name, way in ways.items():
        assert _train(tmp_path / name, *options, *way) == 0
        logs[name] = _read_log(tmp_path / name)
    for name in ("halves", "quarters"):
        for row, expected in zip(logs[name], logs["whole"], strict=True):
            for column in (column for column in row if column.startswith("loss")):
                assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-5)


def test_a_run_without_evaluation_or_average(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert _train(out, "--max-steps", 3, "--eval-every", 0, "--ema-decay", 0) == 0
    assert {path.name for path in out.iterdir()} == {"last.safetensors", "state.pt", "log.csv"}
    assert [(row["step"], row["miou"]) for row in _read_log(out)] == [("3", "")]
    state = torch.load(out / "state.pt", weights_only=True)
    weights = _weights(out)
    assert all(torch.equal(value, weights[key]) for key, value in state["model"].items())
