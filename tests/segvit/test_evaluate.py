"""`segvit.evaluate`: its report, and what it refuses."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segvit import evaluate
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import LandCover
from segvit.evaluate import main
from segvit.model import SegViT
from tests.tiny_models import make_config, make_model

NAMES = tuple(name for name, _ in LANDCOVER_CLASSES)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(
        make_model(make_config(image_size=256, class_names=NAMES)), tmp_path / "m.safetensors"
    )
    return tmp_path / "m.safetensors"


@pytest.fixture
def _colour_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with the colour table instead of the model: quick, and its mIoU is known."""
    table = LandCover().colour_table

    def predict(model: SegViT, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        bins = images.astype(np.int64) >> 4
        index = bins[..., 0] << 8 | bins[..., 1] << 4 | bins[..., 2]
        return np.moveaxis(np.eye(7, dtype=np.float32)[table[index]], -1, 1)

    monkeypatch.setattr(evaluate, "predict_scores", predict)


@pytest.mark.usefixtures("_colour_answers")
def test_report(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert report["split"] == "test"
    assert list(report["iou"]) == list(NAMES)
    assert report["miou"] == pytest.approx(np.mean(list(report["iou"].values())))
    assert report["colour_floor_miou"] == pytest.approx(0.578, abs=0.001)
    assert report["above_floor"] == pytest.approx(report["miou"] - report["colour_floor_miou"])


@pytest.mark.usefixtures("_colour_answers")
def test_table(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", str(checkpoint), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "shrub and savanna" in printed
    assert "on land cover val" in printed
    assert "against the colour look-up" in printed


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(make_model(make_config(num_classes=5)), tmp_path / "five.safetensors")
    for arguments, code, message in (
        (
            ["--checkpoint", str(tmp_path / "five.safetensors")],
            1,
            "has 5 classes, land cover has 7",
        ),
        (["--checkpoint", "none.pth"], 1, "checkpoint 'none.pth' does not exist"),
        (["--split", "train"], 2, "invalid choice: 'train'"),
        (["--batch-size", "0"], 2, "--batch-size must be at least 1"),
        (["--model", "vit_b_ade20k"], 2, "invalid choice: 'vit_b_ade20k'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, arguments)
        assert stopped.value.code == code
        assert message in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images whose red channel is 30 times the class, and a model that reads it there."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index, size in enumerate(((64, 90), (70, 64), (64, 64))):
        blocks = rng.integers(0, 6, (size[0] // 8 + 1, size[1] // 8 + 1), dtype=np.uint8)
        mask = blocks.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]
        image = np.zeros((*size, 3), np.uint8)
        image[..., 2] = mask * 30  # red: OpenCV writes BGR
        mask[0, :10] = 255
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), mask)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    save_checkpoint(make_model(make_config(class_names=NAMES)), tmp_path / "tiny.safetensors")

    def predict(model: SegViT, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = np.rint(images[..., 0] / 30).astype(np.int64)
        return np.moveaxis(np.eye(7, dtype=np.float32)[np.minimum(found, 6)], -1, 1)

    monkeypatch.setattr(evaluate, "predict_scores", predict)
    return [
        "--dataset", "folder", "--images", str(tmp_path / "images"), "--masks",
        str(tmp_path / "masks"), "--classes", str(tmp_path / "classes.txt"), "--checkpoint",
        str(tmp_path / "tiny.safetensors"),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_a_folder_of_masks(
    folder: list[str], mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folder, "--mode", mode, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["miou"] == report["pixel_accuracy"] == 1.0
    assert report["iou"][NAMES[6]] is None  # in no mask and no prediction
    assert report["pixels"] == 64 * 90 + 70 * 64 + 64 * 64 - 30
    assert (report["images"], report["mode"], report["scales"]) == (3, mode, [1.0])


def test_views_of_a_folder(folder: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folder, "--multi-scale", "--flip"]) == 0
    printed = capsys.readouterr().out
    assert "tiny.safetensors on 3 images" in printed
    assert "slide, 12 views an image" in printed
    assert "snow and ice" in printed


def test_wrong_usage_of_a_folder(folder: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (folder[:4], "--dataset folder needs --masks, --classes"),
        (["--flip", "--mode", "whole"], "--mode, --flip: only with --dataset folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
