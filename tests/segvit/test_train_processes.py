"""`segvit.train` as a command, on two CPU processes: the same losses, and one Ctrl-C for all."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segvit.checkpoint import load_checkpoint
from segvit.datasets.folder import open_folder
from segvit.datasets.folder_evaluation import FolderEvaluation
from segvit.evaluation import count_samples
from segvit.prediction import predict_scores
from segvit.train import main

MODEL = ("--model", "vit_t_landcover", "--batch-size", "4", "--device", "cpu", "--log-every", "1")
COMMAND = (sys.executable, "-m", "segvit.train", "--devices", "2", "--strategy", "ddp")
# Sums in another order: 3e-7 seen. Much longer runs part at last, where a ReLU of one is off.
LOSS_RELATIVE = 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Options that name five images with three classes."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(5):
        mask = rng.integers(0, 3, (4, 5), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
        mask[:, :4] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), mask)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.stack([mask * 80] * 3, axis=2))
    (tmp_path / "classes.txt").write_text("sky\nsea\nland\n")
    paths = {"images": "images", "masks": "masks", "val-images": "images", "val-masks": "masks",
             "classes": "classes.txt"}  # fmt: skip
    options = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
    return ["--dataset", "folder", *options]


def _read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    options = [*MODEL, "--max-steps", "20", "--eval-every", "0", "--dropout", "0", "--json"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*options, "--workers", "0", "--out", str(one)]) == 0
    command = [*COMMAND, *options, "--workers", "1", "--out", str(two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 20  # one process alone reports
    rows, expected = _read_log(two), _read_log(one)
    assert len(rows) == len(expected) == 20
    for row, alone in zip(rows, expected, strict=True):
        for column in (column for column in row if column.startswith("loss")):
            assert float(row[column]) == pytest.approx(float(alone[column]), rel=LOSS_RELATIVE)


def test_ctrl_c_stops_all_processes_after_the_same_step(folder: list[str], tmp_path: Path) -> None:
    """And what they evaluated before, three images and two, is what one process counts."""
    out = tmp_path / "run"
    command = [*COMMAND, *MODEL, *folder, "--workers", "1", "--eval-every", "1"]
    with (tmp_path / "output").open("w") as output:
        run = subprocess.Popen(
            [*command, "--out", str(out)], stdout=output, stderr=output, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 240
            while not (out / "log.csv").exists() and run.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(run.pid, signal.SIGINT)  # what a terminal does: to workers, too
            code = run.wait(120)
        finally:
            run.kill()
    text = (tmp_path / "output").read_text()
    assert code == 130, text
    assert "Traceback" not in text
    last = _read_log(out)[-1]
    assert f"stopped at step {last['step']}; go on with the same command and --resume" in text
    assert torch.load(out / "state.pt", weights_only=True)["step"] == int(last["step"])
    _wait_until_nobody_is_left(run.pid)
    model = load_checkpoint(out / "last.safetensors")
    images = open_folder(*(tmp_path / name for name in ("images", "masks", "classes.txt")))
    validation = FolderEvaluation.published(images, model.config, 4)
    matrix = count_samples(partial(predict_scores, model), validation, range(5))
    assert f"{matrix.compute().miou:.9g}" == last["miou"]


def _wait_until_nobody_is_left(group: int) -> None:
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes of the run are left")
