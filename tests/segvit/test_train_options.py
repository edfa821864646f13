"""`segvit.train`'s options: recipes and what overrides them, data sets, and bad input."""

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from segvit import train
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.cli import run_main
from segvit.config import SegViTConfig
from segvit.recipes import RECIPES
from segvit.train import main
from segvit.train_options import parse_arguments
from tests.tiny_models import make_config, make_model

QUICK = ("--batch-size", "2", "--eval-every", "2", "--warmup-steps", "2", "--device", "cpu",
         "--workers", "0")  # fmt: skip


def _config(name: str) -> SegViTConfig:
    return make_config("cascade", num_classes=7)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_variant", _config)


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Options that name three images with three classes."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(3):
        mask = rng.integers(0, 3, (9, 12), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), mask)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.stack([mask * 100] * 3, axis=2))
    (tmp_path / "classes.txt").write_text("sky\nsea\nland\n")
    paths = {"images": "images", "masks": "masks", "val-images": "images", "val-masks": "masks",
             "classes": "classes.txt"}  # fmt: skip
    options = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
    return ["--dataset", "folder", *options]


def _train(out: Path, *arguments: object) -> int:
    return main(["--out", str(out), *QUICK, *map(str, arguments)])


def _fails(capsys: pytest.CaptureFixture[str], code: int, message: str, *arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, [*QUICK, *map(str, arguments)])
    assert stopped.value.code == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_default_recipe_is_land_cover() -> None:
    settings, _ = parse_arguments(["--out", "x"])
    assert settings == RECIPES["landcover"]


def test_options_override_a_recipe() -> None:
    words = "--out x --recipe pascal_context_vit_l --data d --learning-rate 1e-4 --resize 600x500"
    settings, arguments = parse_arguments(words.split())
    assert settings.learning_rate == 1e-4
    assert settings.resize == (600, 500)
    assert (settings.model, settings.weight_decay) == ("vit_l_pascal_context", 0.03)
    assert arguments.data == Path("d")


def test_help_lists_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in RECIPES)


def test_a_folder_of_masks(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", "--max-steps", 2, *folder) == 0
    trained = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert trained.config.class_names == ("sky", "sea", "land")
    save_checkpoint(make_model(_config("cascade")), tmp_path / "seven.safetensors")
    seven = ("--checkpoint", tmp_path / "seven.safetensors")
    message = "has 7 classes, the data 3; take its encoder alone with --backbone"
    _fails(capsys, 1, message, "--out", tmp_path / "other", *folder, *seven)
    message = "--dataset folder needs all of --images, --masks, --val-images"
    _fails(capsys, 2, message, "--out", tmp_path / "other", *folder[:4])
    _fails(capsys, 2, message, "--out", tmp_path / "other", "--reduce-zero-label")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    options = ("--out", tmp_path / "run", "--max-steps", 4, *folder, "--workers", workers)
    _fails(capsys, 1, "1.png' cannot be decoded", *options)


def test_a_diverging_loss_is_an_error(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "run", "--learning-rate", 1e30, "--max-steps", 4)
    _fails(capsys, 1, "lower --learning-rate", *options, *folder)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ctrl-C works again


def test_runs_are_not_mixed_up(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    _fails(capsys, 1, "nothing to resume", "--out", out, "--resume", *folder)
    assert not out.exists()
    assert _train(out, "--max-steps", 1, *folder) == 0
    _fails(capsys, 1, "already holds a run; go on with --resume", "--out", out, *folder)
    again = ("--out", out, "--resume", *folder)
    _fails(capsys, 1, "--seed was 0, now 5", *again, "--seed", 5)
    _fails(capsys, 1, "--layer-decay was 1.0, now 0.9", *again, "--layer-decay", 0.9)
    (tmp_path / "file").write_text("")
    _fails(capsys, 1, "is a file, expected a folder", "--out", tmp_path / "file", *folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-steps 0", "--max-steps must be at least 1"),
        ("--eval-every -1", "--eval-every must be at least 0"),
        ("--learning-rate 0", "--learning-rate must be above 0"),
        ("--learning-rate nan", "--learning-rate must be at most"),
        ("--dropout 1", "--dropout must be below 1"),
        ("--layer-decay 1.1", "--layer-decay must be at most 1"),
        ("--ema-decay -0.1", "--ema-decay must be at least 0"),
        ("--accumulate 0", "--accumulate must be at least 1"),
        ("--num-nodes 0", "--num-nodes must be at least 1"),
        ("--workers -1", "--workers must be at least 0"),
        ("--resize wide", "expected HxW in pixels"),
        ("--precision half", "invalid choice: 'half'"),
        ("--strategy fsdp", "invalid choice: 'fsdp'"),
        ("--dataset cityscapes", "invalid choice: 'cityscapes'"),
        ("--recipe cityscapes", "invalid choice: 'cityscapes'"),
        ("--dataset ade20k", "--dataset ade20k needs --data, its folder"),
        ("--data here", "--dataset landcover takes no --data"),
        ("--checkpoint a --backbone b", "not allowed with"),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    _fails(capsys, 2, message, "--out", "x", *words.split())


def test_what_is_missing(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "run")
    for option in ("--checkpoint", "--backbone"):
        _fails(capsys, 1, "'x.pth' does not exist", *out, option, "x.pth", *folder)
    _fails(capsys, 1, "accelerator", *out, "--device", "abacus", *folder)
    shares = ("--batch-size", 6, "--accumulate", 4)
    message = "batch size 6 cannot be shared by 1 device in 4 micro-batches each; give a multiple"
    _fails(capsys, 1, message, *out, *shares, *folder)
    empty = ("--dataset", "ade20k", "--data", tmp_path)
    _fails(capsys, 1, str(tmp_path), *out, *empty)
    assert not (tmp_path / "run").exists()
