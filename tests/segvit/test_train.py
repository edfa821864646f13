"""`segvit.train` on real tiles with a tiny model: resuming, interrupting, starting points."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segvit import train
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.cli import run_main
from segvit.config import LANDCOVER_CLASSES, SegViTConfig
from segvit.datasets import training_data
from segvit.datasets.landcover_training import TrainingTiles
from segvit.metrics import ConfusionMatrix
from segvit.train import main
from tests.tiny_models import make_config, make_model

NAMES = tuple(name for name, _ in LANDCOVER_CLASSES)
QUICK = ("--batch-size", "2", "--eval-every", "2", "--warmup-steps", "2", "--device", "cpu")


def _config(name: str) -> SegViTConfig:
    head = "shrunk" if "shrunk" in name else "cascade"
    return make_config(head, image_size=256, class_names=NAMES)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model, and an evaluation that counts one predicted tile instead of a continent."""

    def evaluate(predict: object, data: object, split: str, progress: bool) -> ConfusionMatrix:
        matrix = ConfusionMatrix(7)
        scores = predict(np.zeros((1, 256, 256, 3), np.uint8))
        matrix.update(scores.argmax(1), np.zeros((1, 256, 256), np.uint8))
        return matrix

    monkeypatch.setattr(train, "find_variant", _config)
    monkeypatch.setattr(training_data, "evaluate_landcover", evaluate)


def _train(out: Path, *arguments: object) -> int:
    return main(["--out", str(out), *QUICK, *map(str, arguments)])


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.safetensors").state_dict()


def test_a_resumed_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert _train(whole, "--max-steps", 4) == 0
    interrupt = pytest.MonkeyPatch()
    step = train.TrainingRun._train_step

    def interrupted_step(run: train.TrainingRun) -> dict[str, float]:
        losses = step(run)
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
        return losses

    interrupt.setattr(train.TrainingRun, "_train_step", interrupted_step)
    assert _train(halves, "--max-steps", 4) == 130
    interrupt.undo()
    assert _train(halves, "--max-steps", 4, "--resume") == 0
    expected, resumed = _weights(whole), _weights(halves)
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())
    first, second = (torch.load(f / "state.pt", weights_only=True) for f in (whole, halves))
    assert all(torch.equal(value, second["model"][k]) for k, value in first["model"].items())


def test_what_a_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path / "run", "--max-steps", 4, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 4
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "state.pt", "log.csv"}
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
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
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    totals = [sum(float(v) for k, v in row.items() if k.startswith("loss")) for row in rows]
    assert totals[-1] < 0.9 * totals[0]


def _write_folder(root: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(3):
        mask = rng.integers(0, 3, (9, 12), dtype=np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        cv2.imwrite(str(root / "masks" / f"{index}.png"), mask)
        cv2.imwrite(str(root / "images" / f"{index}.png"), np.stack([mask * 100] * 3, axis=2))
    (root / "classes.txt").write_text("sky\nsea\nland\n")
    paths = {"images": "images", "masks": "masks", "val-images": "images", "val-masks": "masks",
             "classes": "classes.txt"}  # fmt: skip
    options = [word for name, path in paths.items() for word in (f"--{name}", str(root / path))]
    return ["--dataset", "folder", *options]


def test_a_folder_of_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = _write_folder(tmp_path)
    assert _train(tmp_path / "run", "--max-steps", 2, *options) == 0
    trained = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert trained.config.class_names == ("sky", "sea", "land")
    save_checkpoint(make_model(_config("cascade")), tmp_path / "seven.safetensors")
    seven = ("--checkpoint", tmp_path / "seven.safetensors")
    message = "has 7 classes, the data 3; take its encoder alone with --backbone"
    _fails(capsys, 1, message, "--out", tmp_path / "other", *options, *seven)
    message = "--dataset folder needs all of --images, --masks, --val-images"
    _fails(capsys, 2, message, "--out", tmp_path / "other", *options[:4])
    _fails(capsys, 2, message, "--out", tmp_path / "other", "--reduce-zero-label")


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


def _fails(capsys: pytest.CaptureFixture[str], code: int, message: str, *arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, [*QUICK, *map(str, arguments)])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    _fails(capsys, 1, "nothing to resume", "--out", out, "--resume")
    assert not out.exists()
    _fails(capsys, 1, "checkpoint 'x.pth' does not exist", "--out", out, "--checkpoint", "x.pth")
    _fails(capsys, 2, "--max-steps must be at least 1", "--out", out, "--max-steps", 0)
    _fails(capsys, 2, "invalid choice: 'cityscapes'", "--out", out, "--dataset", "cityscapes")
    _fails(capsys, 2, "not allowed with", "--out", out, "--checkpoint", "a", "--backbone", "b")
    assert _train(out, "--max-steps", 1) == 0
    _fails(capsys, 1, "already holds a run; go on with --resume", "--out", out)
    _fails(capsys, 1, "--seed was 0, now 5", "--out", out, "--resume", "--seed", 5)


def test_a_diverging_loss_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run", "--learning-rate", 1e30, "--max-steps", 4)
    _fails(capsys, 1, "lower --learning-rate", *options)


def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    """The command itself, on two CPU processes, with the real small model."""
    command = [
        sys.executable, "-m", "segvit.train", "--model", "vit_t_landcover", "--dataset",
        "landcover", "--max-steps", "1", "--batch-size", "3", "--device", "cpu", "--devices", "2",
        "--strategy", "ddp", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert refused.returncode == 1
    assert "error: batch size 3 cannot be shared by 2 devices" in refused.stderr
