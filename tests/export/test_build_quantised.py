"""`export.build --int8` and `--fp8`: ranges kept and reused, precisions audited, bad input."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from benchmarks.varied_weights import vary_labels
from calibration.budget import BudgetSearch, Frontier
from calibration.ranges import Ranges
from export.build import main
from export.build_quantised import search_folder
from export.manifest import Manifest
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from tests.tiny_models import make_config, make_model, random_images

DTYPES = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, and images to calibrate and to verify on."""
    place = tmp_path_factory.mktemp("quantised")
    save_checkpoint(make_model(make_config()), place / "tiny.safetensors")
    for folder, count, seed in (("calibrate", 32, 1), ("few", 4, 3), ("verify", 4, 2)):
        (place / folder).mkdir()
        for index, image in enumerate(random_images(count, 64, 64, seed)):
            cv2.imwrite(str(place / folder / f"{index}.png"), np.ascontiguousarray(image))
    return place


def _options(place: Path, precision: str, name: str) -> list[str]:
    return ["--checkpoint", str(place / "tiny.safetensors"), f"--{precision}", "--images",
            str(place / "verify"), "--out", str(place / name)]  # fmt: skip


@pytest.mark.trt_rtx
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_product_asked_for_is_obtained(place: Path, precision: str) -> None:
    options = _options(place, precision, precision)
    options += ["--calibration-images", str(place / "calibrate"), "--allow-unfused", "--target",
                "ort", "trt-rtx", "--compute-capability", "SM89"]  # fmt: skip
    assert main(options) == 0
    out = place / precision
    manifest = Manifest.read(out)
    assert {"ranges.json", "build.json", "model.onnx"} < set(manifest.files)
    assert manifest.precision == precision
    assert manifest.parity is not None
    products = json.loads((out / "build.json").read_text())["trt-rtx-sm89.engine"]
    wanted = {"int8": "Int8", "fp8": "FP8"}[precision]
    low = {name: found for name, found in products.items() if found["asked"] == wanted}
    assert len(low) == (1 + 4 * 3 if precision == "int8" else 4 * 3)
    assert all(found["obtained"] == wanted for found in low.values())
    stored = [t for t in onnx.load(out / "model.onnx").graph.initializer if len(t.dims) == 2]
    assert sum(tensor.data_type == DTYPES[precision] for tensor in stored) == len(low)
    assert Ranges.load(out / "ranges.json").images == 32


def test_ranges_serve_a_second_build_and_no_other_graph(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _options(place, "int8", "first")
    folder = ["--calibration-images", str(place / "calibrate"), "--target", "ort"]
    assert main([*first, *folder]) == 0
    ranges = str(place / "first" / "ranges.json")
    assert main([*_options(place, "int8", "second"), "--ranges", ranges, "--target", "ort"]) == 0
    hashes = [Manifest.read(place / name).files["model.onnx"] for name in ("first", "second")]
    assert hashes[0] == hashes[1]
    other = [*_options(place, "int8", "third"), "--output", "scores", "--ranges", ranges]
    _fails(capsys, 1, "ranges are of another graph", [*other, "--target", "ort"])
    assert not (place / "third").exists()


def test_few_images_are_a_warning_that_the_manifest_keeps(place: Path) -> None:
    options = _options(place, "int8", "short")
    assert main([*options, "--calibration-images", str(place / "few"), "--target", "ort"]) == 0
    assert any(
        "4 calibration images are few" in warning
        for warning in Manifest.read(place / "short").warnings
    )


def _fails(
    capsys: pytest.CaptureFixture[str], code: int, message: str, options: Sequence[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, options)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_bad_input(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fp8, int8 = _options(place, "fp8", "bad"), _options(place, "int8", "bad")
    images = ["--calibration-images", str(place / "calibrate")]
    grey = tmp_path / "grey"
    grey.mkdir()
    for index in range(3):
        cv2.imwrite(str(grey / f"{index}.png"), np.full((64, 64, 3), 90, np.uint8))
    for code, message, options in (
        (1, "compute capability SM86 has no FP8: expected SM89 or later",
         [*fp8, *images, "--target", "trt-rtx", "--compute-capability", "SM86"]),
        (1, "one colour", [*int8, "--calibration-images", str(grey)]),
        (1, "no such image, folder or pattern", [*int8, "--calibration-images", "nowhere"]),
        (1, "counts steps of equal size, which fp8 does not have",
         [*fp8, *images, "--calibration-method", "mse"]),
        (2, "only with --int8 or --fp8", [*_options(place, "fp16", "bad"), *images]),
        (2, "--ranges and --calibration-images exclude", [*int8, *images, "--ranges", "x"]),
    ):  # fmt: skip
        _fails(capsys, code, message, options)
    assert not (place / "bad").exists()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.trt_rtx
def test_a_budget_is_searched_and_the_frontier_shipped(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = _options(place, "int8", "budget")
    options += ["--calibration-images", str(place / "calibrate"), "--allow-unfused", "--target",
                "ort", "trt-rtx", "--compute-capability", "SM89"]  # fmt: skip
    options += ["--max-miou-drop", "100", "--num-search-images", "2", "--float-type", "fp16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BudgetSearch, "run", _interrupt)
        kept = f"the search so far is in '{place / 'budget.search'}', and the same command goes on"
        _fails(capsys, 130, kept, options)
    assert main(options) == 0
    out = place / "budget"
    manifest = Manifest.read(out)
    assert {"frontier.json", "frontier.csv", "frontier.png"} < set(manifest.files)
    assert "--max-miou-drop=100" in manifest.command
    frontier = Frontier.load(out / "frontier.json")
    point = frontier.choose(100)
    assert point is not None
    assert point.speed.estimated_ms is not None
    assert point.speed.measured_ratio is not None
    assert "against the float graph's own labels" in frontier.setup.images
    products = json.loads((out / "build.json").read_text())["trt-rtx-sm89.engine"]
    low = [name for name, found in products.items() if found["obtained"] == "Int8"]
    assert len(low) == point.quantised
    assert not set(low) & set(point.kept)
    assert not (place / "budget.search").exists()
    assert "kept float" in capsys.readouterr().out


def test_a_budget_that_cannot_be_held_is_no_success(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(make_config())
    vary_labels(model, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    save_checkpoint(model, tmp_path / "varied.safetensors")
    options = ["--checkpoint", str(tmp_path / "varied.safetensors"), "--images",
               str(place / "verify"), "--fp8", "--target", "ort", "--float-type",
               "fp32"]  # fmt: skip
    first = ["--random-weights", "--calibration-images", str(place / "calibrate")]
    assert main([*options, *first, "--out", str(tmp_path / "first")]) == 0
    ranges = Ranges.load(tmp_path / "first" / "ranges.json")
    # Nothing that clips its activations at a ten-thousandth keeps its labels.
    clipped = {name: limit * 1e-4 for name, limit in ranges.limits.items()}
    replace(ranges, limits=clipped).save(tmp_path / "ranges.json")
    options += ["--ranges", str(tmp_path / "ranges.json"), "--max-miou-drop", "0",
                "--num-search-images", "2", "--out", str(tmp_path / "none")]  # fmt: skip
    _fails(capsys, 1, "error: fp8 cannot hold a drop of 0 points: the best of", options)
    assert not (tmp_path / "none").exists()
    kept = tmp_path / "none.search"
    assert {path.name for path in kept.iterdir()} == {
        "frontier.json", "frontier.csv", "frontier.png",
    }  # fmt: skip
    assert Frontier.load(kept / "frontier.json").choose(0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fp16", "--max-miou-drop", "0.3"], "--max-miou-drop: only with --int8 or --fp8"),
        (["--int8", "--max-miou-drop", "many"], "expected points of 0 to 100"),
        (["--int8", "--max-miou-drop", "nan"], "expected points of 0 to 100"),
        (["--int8", "--max-miou-drop", "1", "--random-weights"], "no mIoU to lose"),
        (["--int8", "--quantise-attention"], "only with --fp8"),
        (["--fp16", "--float-type", "fp32", "--target", "ort"], "only with --int8 or --fp8"),
        (["--int8", "--estimate-gpu", "L4"], "--estimate-gpu: only with --max-miou-drop"),
        (["--int8", "--num-search-images", "4"], "only with --max-miou-drop"),
        (["--fp8", "--quantise-attention", "--max-miou-drop", "1"], "frees linears alone"),
        (["--int8", "--images", "a", "--calibration-images", "a"], "others than --images"),
        (["--int8", "--float-type", "fp32"], "only with --target ort"),
        (["--int8", "--float-type", "bf16"], "only with --target openvino"),
        (["--fp8", "--float-type", "bf16", "--target", "openvino"], "only with --int8"),
    ],
)
def test_options_that_make_no_sense(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.trt_rtx
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8", "--target", "trt"], "target 'trt' cannot be built here"),
        (["--int8", "--target", "trt-rtx", "--batch", "1:2:4"], "search with a fixed --batch"),
        (["--fp8", "--target", "trt-rtx", "--estimate-gpu", "A100"], "A100 has no FP8"),
    ],
)
def test_a_search_that_cannot_rank_ends_before_it_begins(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    out = place / "unranked"
    base = ["--checkpoint", str(place / "tiny.safetensors"), "--images", str(place / "verify")]
    _fails(capsys, 1, message, [*base, *options, "--max-miou-drop", "1", "--out", str(out)])
    assert not out.exists()
    assert not search_folder(out).exists()


def test_a_build_without_a_search_leaves_one_alone(place: Path) -> None:
    options = _options(place, "fp32", "alone")
    kept = search_folder(place / "alone") / "frontier.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    assert main([*options, "--target", "ort"]) == 0
    assert kept.read_text() == "{}"
