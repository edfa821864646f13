"""`segvit.evaluate`: its report, several processes, resuming, and what it refuses."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from export import build
from export.manifest import Manifest
from segvit import evaluate, evaluation_run, prediction
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import LandCover
from segvit.evaluate import STATE_NAME, main
from segvit.model import SegViT
from tests.dataset_layouts import write_ade20k, write_coco_stuff10k, write_pascal_context
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

    monkeypatch.setattr(prediction, "predict_scores", predict)


@pytest.mark.usefixtures("_colour_answers")
def test_land_cover(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["split"], report["mode"]) == ("test", "tiles")
    assert list(report["iou"]) == list(NAMES)
    assert report["miou"] == pytest.approx(np.mean(list(report["iou"].values())))
    assert report["colour_floor_miou"] == pytest.approx(0.578, abs=0.001)
    assert report["above_floor"] == pytest.approx(report["miou"] - report["colour_floor_miou"])


@pytest.mark.usefixtures("_colour_answers")
def test_land_cover_in_sliding_windows(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pixel of the same blocks counts once, 16 times enlarged."""
    assert main(["--checkpoint", str(checkpoint), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "shrub and savanna" in printed
    assert "m.safetensors on landcover val" in printed
    assert "overlapping tiles" in printed
    assert "against the colour look-up" in printed
    options = ("--checkpoint", str(checkpoint), "--split", "val", "--mode", "slide", "--json")
    assert main(options) == 0
    report = json.loads(capsys.readouterr().out)
    data = LandCover()
    labels = [data.crop(block)[1] for block in data.land_blocks("val")]
    assert report["pixels"] == 16 * sum(int((block != 255).sum()) for block in labels)
    assert report["miou"] == pytest.approx(report["colour_floor_miou"], abs=0.03)
    assert (report["crop"], report["stride"]) == ([256, 256], [256, 256])


def _fails(
    capsys: pytest.CaptureFixture[str], code: int, message: str, arguments: Sequence[object]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, [str(argument) for argument in arguments])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five = tmp_path / "five.safetensors"
    save_checkpoint(make_model(make_config(num_classes=5)), five)
    for code, message, arguments in (
        (1, "has 5 classes, landcover has 7", ["--checkpoint", five]),
        (1, "checkpoint 'none.pth' does not exist", ["--checkpoint", "none.pth"]),
        (1, "'none' is no artifact folder", ["--artifact", "none"]),
        (2, "--split of landcover: expected one of test, val, got train", ["--split", "train"]),
        (2, "--batch-size must be at least 1", ["--batch-size", "0"]),
        (2, "--devices must be at least 1", ["--devices", "0"]),
        (2, "invalid choice: 'vit_b_ade20k'", ["--model", "vit_b_ade20k"]),
        (2, "--resume and --save-worst need --out", ["--save-worst", "3"]),
        (2, "on landcover: say --mode slide or whole", ["--flip"]),
        (2, "--data: needed with --dataset ade20k", ["--dataset", "ade20k"]),
        (2, "--target: only with --artifact", ["--target", "ort"]),
        (2, "--digest: only with --artifact", ["--digest", "a" * 64]),
        (1, "a side of 4 to 1000 pixels in steps of 4, got 514",
         ["--mode", "slide", "--image-size", "514"]),
    ):  # fmt: skip
        _fails(capsys, code, message, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Images whose red channel is 30 times the class, three of them, and a tiny model."""
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
    return [
        "--dataset", "folder", "--images", str(tmp_path / "images"), "--masks",
        str(tmp_path / "masks"), "--classes", str(tmp_path / "classes.txt"), "--checkpoint",
        str(tmp_path / "tiny.safetensors"),
    ]  # fmt: skip


@pytest.fixture
def _red_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the class where the images have it."""

    def predict(model: SegViT, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = np.rint(images[..., 0] / 30).astype(np.int64)
        return np.moveaxis(np.eye(7, dtype=np.float32)[np.minimum(found, 6)], -1, 1)

    monkeypatch.setattr(prediction, "predict_scores", predict)


@pytest.mark.usefixtures("_red_answers")
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


@pytest.mark.usefixtures("_red_answers")
def test_views_of_a_folder(folder: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folder, "--multi-scale", "--flip"]) == 0
    printed = capsys.readouterr().out
    assert "tiny.safetensors on folder: " in printed
    assert "of 3 images, slide, 12 views an image" in printed
    assert "snow and ice" in printed


def test_wrong_usage_of_a_folder(folder: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _fails(capsys, 2, "--dataset folder needs --masks, --classes", folder[:4])
    _fails(capsys, 2, "--masks: only with --dataset folder", ["--masks", "x"])
    _fails(capsys, 2, "expected none, got val", [*folder, "--split", "val"])


def _report(options: Sequence[object], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main([*map(str, options), "--json"]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return {key: value for key, value in report.items() if key not in ("seconds", "devices")}


def test_the_number_of_processes_changes_nothing(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = _report([*folder, "--out", tmp_path / "one"], capsys)
    assert 0 < alone["miou"] < 1
    shared = _report([*folder, "--devices", 2, "--out", tmp_path / "two"], capsys)
    assert shared == alone
    for name in ("classes.csv", "images.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    assert not (tmp_path / "two" / STATE_NAME).exists()


def test_an_interrupted_run_goes_on(
    folder: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = _report(folder, capsys)
    count, counted = evaluation_run._count_sample, []

    def interrupted(index: int) -> evaluation_run.Counted:
        if len(counted) == 2:
            raise KeyboardInterrupt  # what Ctrl-C does, which pytest's workers ignore
        counted.append(index)
        return count(index)

    monkeypatch.setattr(evaluation_run, "_count_sample", interrupted)
    options = [*folder, "--out", str(tmp_path / "run")]
    assert main(options) == 130
    assert "stopped after 2 of 3 images; go on with the same command and --resume" in (
        capsys.readouterr().out
    )
    _fails(capsys, 1, "its mode is slide, now whole", [*options, "--resume", "--mode", "whole"])
    counted.clear()
    counted.append(-1)
    assert _report([*options, "--resume"], capsys) == whole
    assert counted == [-1, 2]
    _fails(capsys, 1, "nothing to resume", [*options, "--resume"])
    (tmp_path / "run" / STATE_NAME).write_bytes(b"no state")
    _fails(capsys, 1, "is damaged", [*options, "--resume"])


@pytest.mark.usefixtures("_red_answers")
def test_damaged_files_stop_the_run_or_are_counted(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "images" / "1.png"
    image.write_bytes(image.read_bytes()[:-20])
    _fails(capsys, 1, "1.png' is cut off: its end is missing; copy it again; or go on", folder)
    assert main([*folder, "--skip-unreadable", "--out", str(tmp_path / "run")]) == 0
    assert "of 2 images" in (printed := capsys.readouterr().out)
    assert "1 unreadable images SKIPPED" in printed
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["unreadable"]) == 1
    assert "1.png' is cut off" in report["unreadable"][0]
    cv2.imwrite(str(tmp_path / "masks" / "2.png"), np.full((64, 64), 9, np.uint8))
    _fails(capsys, 1, "4096 pixels of unknown classes (9)", [*folder, "--skip-unreadable"])


@pytest.mark.usefixtures("_red_answers")
def test_tables_and_the_worst_images(
    folder: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = cv2.imread(str(tmp_path / "masks" / "1.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(tmp_path / "masks" / "1.png"), np.where(mask == 2, 3, mask))
    out = tmp_path / "run"
    report = _report([*folder, "--out", out, "--save-worst", 2], capsys)
    with (out / "classes.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(NAMES)
    assert float(rows["grass"]["iou"]) == pytest.approx(report["iou"]["grass"], abs=1e-6)
    assert rows["snow and ice"]["iou"] == ""
    assert int(rows["grass"]["true_pixels"]) > int(rows["grass"]["predicted_pixels"])
    with (out / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    assert [row["image"] for row in images] == ["0", "1", "2"]
    assert float(images[0]["miou"]) == 1.0
    assert float(images[1]["miou"]) < 1.0
    worst = sorted(path.name for path in (out / "worst").iterdir())
    assert len(worst) == 2
    assert worst[0].startswith("001_1_miou0.")
    assert worst[1] == "002_0_miou1.000.png"
    picture = cv2.imread(str(out / "worst" / worst[0]))
    assert picture.shape[1] > 3 * 64


@pytest.mark.parametrize(
    ("name", "write", "classes"),
    [
        ("ade20k", write_ade20k, 150),
        ("coco_stuff10k", write_coco_stuff10k, 171),
        ("pascal_context", write_pascal_context, 60),
        ("pascal_context_59", write_pascal_context, 59),
    ],
)
def test_published_data_sets(
    name: str,
    write: Callable[[Path], object],
    classes: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "data")
    save_checkpoint(make_model(make_config(num_classes=classes)), tmp_path / "m.safetensors")
    options = ["--checkpoint", tmp_path / "m.safetensors", "--data", tmp_path / "data"]
    assert main([*map(str, options), "--dataset", name, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["split"], report["images"], len(report["iou"])) == ("val", 2, classes)
    assert f"note: data set '{name}' val: 2 of the published " in captured.err
    if name == "pascal_context":  # its model also tells the 59 others apart
        report = _report([*options, "--dataset", "pascal_context_59"], capsys)
        assert len(report["iou"]) == 59
    if name == "pascal_context_59":
        message = "has 59 classes, pascal_context has 60; give a checkpoint of these classes, or"
        _fails(capsys, 1, message, [*options, "--dataset", "pascal_context"])


@pytest.fixture
def artifact(folder: list[str], tmp_path: Path) -> Path:
    """The tiny model's ONNX file with scores, a fixed batch of two."""
    out = tmp_path / "artifact"
    options = ["--checkpoint", folder[-1], "--images", folder[3], "--fp32", "--target", "ort"]
    assert build.main([*options, "--output", "scores", "--batch", "2", "--out", str(out)]) == 0
    return out


def test_an_artifact_scores_as_its_checkpoint(
    folder: list[str], artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--multi-scale", "--flip", "--batch-size", "3")):
        capsys.readouterr()
        expected = _report([*folder, *options], capsys)
        found = _report([*folder[:-2], "--artifact", artifact, *options], capsys)
        assert found["miou"] == pytest.approx(expected["miou"], abs=5e-4)
        assert found["pixels"] == expected["pixels"]
        assert found["stride"] == expected["stride"]
    for devices in (1, 2):
        arguments = [*folder[:-2], "--artifact", str(artifact), "--json", "--devices", str(devices)]
        report = json.loads(_run_without_torch(artifact.parent, arguments))
        assert report["iou"] == _report(arguments[:-3], capsys)["iou"]


def _run_without_torch(place: Path, arguments: Sequence[str]) -> str:
    script = place / "without_torch.py"
    script.write_text(
        "import sys\nsys.modules['torch'] = None\nfrom segvit.evaluate import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_artifact_that_cannot_be_evaluated(
    folder: list[str], artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(artifact)
    pinned = ["--artifact", artifact, "--digest", "a" * 64]
    _fails(capsys, 1, f"expected digest {'a' * 64}, got ", [*folder[:-2], *pinned])
    model = replace(manifest.model, stride=None)
    labels = replace(manifest.outputs[0], name="labels")
    for changed, message in (
        (replace(manifest, outputs=(labels,)), "gives labels, and the protocols average scores"),
        (replace(manifest, model=model), "does not say the model's crop, stride and mean"),
    ):
        changed.write(artifact)
        _fails(capsys, 1, message, [*folder[:-2], "--artifact", artifact])


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        (None, 2, ["cpu", "cpu"]),
        ("cuda", 1, ["cuda"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:2", 2, ["cuda:2", "cuda:3"]),
        ("1", 2, ["1", "2"]),
    ],
)
def test_every_process_has_a_device(device: str | None, count: int, expected: list[str]) -> None:
    options = ["--devices", str(count), *(["--device", device] if device else [])]
    assert evaluate._list_devices(evaluate.parse_arguments(options)) == expected
