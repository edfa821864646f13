"""`calibration.quantize` on its own: any exported float file to INT8 or FP8."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest

from calibration.quantize import main
from segvit.cli import run_main
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import random_images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny graph as a file, and images."""
    place = tmp_path_factory.mktemp("quantize")
    graph = traced_graph(output="scores")
    graph.metadata_props["precision"] = '"fp32"'
    ir.save(graph, place / "model.onnx")
    (place / "images").mkdir()
    for index, image in enumerate(random_images(40, 96, 64)):
        cv2.imwrite(str(place / "images" / f"{index}.png"), np.ascontiguousarray(image))
    return place


def _options(place: Path, *more: object) -> list[str]:
    return ["--onnx", str(place / "model.onnx"), *map(str, more)]


@pytest.mark.parametrize("method", ["amax", "percentile", "entropy", "mse"])
def test_scores_stay_close_by_every_method(
    place: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8"
    options = _options(place, "--int8", "--images", place / "images", "--method", method)
    assert main([*options, "--num-images", "32", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["quantised"]) == 1 + 4 * 3
    assert (report["images"], report["warnings"], report["kept"]) == (32, [], [])
    assert report["rewrites"] == ["equalisation"]
    quantised = ir.load(out / "model.onnx")
    assert quantised.metadata_props["precision"] == '"int8"'
    images = random_images(1, 64, 64, seed=5)
    expected = run_graph(traced_graph(output="scores"), images)[0]
    assert relative_rms(run_graph(quantised, images)[0], expected) < 0.05


def test_ranges_and_what_stays_float(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(_options(place, "--fp8", "--images", place / "images", "--out", first)) == 0
    assert "12 products quantised, 0 kept float" in capsys.readouterr().out
    kept = ("encoder/0/qkv/MatMul", "encoder/3/fc2/MatMul")
    options = _options(place, "--fp8", "--ranges", first / "ranges.json", "--keep", *kept)
    assert main([*options, "--out", str(second)]) == 0
    names = {node.name: node for node in ir.load(second / "model.onnx").graph}
    for name in kept:
        assert names[name].inputs[1].producer() is None
    assert names["encoder/1/qkv/MatMul"].inputs[1].producer().op_type == "DequantizeLinear"


def test_rewrites_ride_in_the_ranges(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    images = ("--images", place / "images", "--num-images", 4)
    options = _options(place, "--int8", *images, "--rewrites", "migration", "equalisation")
    assert main([*options, "--out", str(first)]) == 0
    assert "; rewritten by migration and equalisation" in capsys.readouterr().out
    options = _options(place, "--int8", "--ranges", first / "ranges.json", "--json")
    assert main([*options, "--out", str(second)]) == 0
    assert json.loads(capsys.readouterr().out)["rewrites"] == ["migration", "equalisation"]
    assert (first / "model.onnx").read_bytes() == (second / "model.onnx").read_bytes()
    assert main([*_options(place, "--int8", *images, "--out", second), "--rewrites"]) == 0
    assert json.loads((second / "ranges.json").read_text())["rewrites"] == []


def test_bad_input(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, images = ("--out", tmp_path / "out"), ("--images", place / "images")
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").touch()
    for code, message, options in (
        (1, "'none.onnx': no such ONNX file", ["--onnx", "none.onnx", "--int8", *images, *out]),
        (1, "is no ONNX model", ["--onnx", text, "--int8", *images, *out]),
        (1, "holds files but no ranges.json", _options(place, "--int8", *images, "--out", full)),
        (1, "'x' is no product that int8 quantises",
         _options(place, "--int8", *images, "--keep", "x", *out)),
        (1, "holds no calibrated ranges", _options(place, "--int8", "--ranges", text, *out)),
        (2, "one of the arguments --int8 --fp8 is required", _options(place, *images, *out)),
        (2, "leave out --rewrites",
         _options(place, "--int8", "--ranges", text, *out, "--rewrites", "equalisation")),
        (2, "--num-images must be at least 1", _options(place, "--int8", "--num-images", 0, *out)),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [str(option) for option in options])
        assert stopped.value.code == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
