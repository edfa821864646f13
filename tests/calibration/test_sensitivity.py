"""What each layer's quantisation costs: the figures, going on with a file, the picture."""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibration import layer_errors, sensitivity
from calibration.layer_errors import ErrorMeter, draw_images, group_products, measure_layer_errors
from calibration.qdq_insertion import list_products
from calibration.quantization import Calibration, calibrate
from calibration.ranges import Ranges
from calibration.scheme import SCHEMES
from calibration.strip import draw_strip, format_error, place_errors
from segvit.images import read_image, write_png
from tests.graphs import traced_graph
from tests.tiny_models import random_images

INT8 = SCHEMES["int8"]
WORST = "encoder/2/qkv/MatMul"
WIDTH = 48  # of the queries, which lie before the keys
IMAGES = random_images(8, 64, 64)
CLASSES = tuple(f"class {number}" for number in range(7))


def _calibrate(model: ir.Model) -> Ranges:
    """Return ranges of the graph as it is: equalised, a spoilt layer would be as good as any."""
    return calibrate(model, INT8, Calibration((IMAGES[4:], "noise"), progress=False, rewrites=()))


def _products(model: ir.Model) -> list[str]:
    return [str(node.name) for node, _ in list_products(model.graph, INT8)]


def _meter(model: ir.Model, ranges: Ranges) -> ErrorMeter:
    return ErrorMeter(model, INT8, ranges, IMAGES[:2], None, 7)


def _spoil(model: ir.Model) -> None:
    """Make a query's channel huge and its key's as small: the same to floats, not to one scale."""
    node = next(node for node in model.graph if node.name == WORST)
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    array[:, 0] *= 500
    array[:, WIDTH] /= 500
    weight.const_value = ir.Tensor(array, name=weight.name)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, image in enumerate(IMAGES):
        write_png(tmp_path / "photos" / f"{number}.png", image)
    return tmp_path / "photos"


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    model = traced_graph()
    model.metadata_props["classes"] = json.dumps(CLASSES)
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def _run(onnx_path: Path, photos: Path, *extra: str) -> int:
    return sensitivity.main(
        ["--onnx", str(onnx_path), "--int8", "--images", str(photos), "--num-images", "2",
         "--num-calibration-images", "4", "--out", str(onnx_path.parent / "out"), "--json", *extra]
    )  # fmt: skip


def test_an_uneven_layer_comes_out_worst() -> None:
    model = traced_graph()
    _spoil(model)
    names = _products(model)
    groups = group_products(names[4:], "layer")
    ranges = _calibrate(model)
    errors = list(measure_layer_errors(_meter(model, ranges), groups, False))
    assert [error.name for error in errors] == list(groups)
    worst, second = sorted(errors, key=lambda error: -error.score_rms)[:2]
    assert worst.name == WORST
    assert worst.score_rms > 2 * second.score_rms > 0
    assert all(error.miou_drop_points is None for error in errors)
    assert _products(model) == names  # the graph is left float


def test_a_group_costs_more_than_its_parts() -> None:
    model = traced_graph()
    names = _products(model)
    groups = {"all": frozenset(names), "one": frozenset(names[1:2])}
    errors = measure_layer_errors(_meter(model, _calibrate(model)), groups, False)
    everything, one = list(errors)
    assert everything.score_rms > one.score_rms > 0


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_reader(model: ir.Model, _classes: int) -> layer_errors.Predict:
        is_float = all(node.op_type != "QuantizeLinear" for node in model.graph)
        labels = np.array([[[0, 1 if is_float else 0]]])
        scores = np.full((1, 2, 1, 2), 2.0 if is_float else 2.5, np.float32)
        return lambda _: layer_errors.Prediction(labels, scores)

    monkeypatch.setattr(layer_errors, "_open_reader", open_reader)
    model, truth = traced_graph(), np.array([[[0, 1]]])
    groups = {"one": frozenset(_products(model)[:1])}
    ranges = _calibrate(model)
    meter = ErrorMeter(model, INT8, ranges, IMAGES[:1], truth, 2)
    (error,) = measure_layer_errors(meter, groups, False)
    # IoU falls from 1 and 1 to a half and 0.
    assert error == layer_errors.LayerError("one", 0.25, 0.5, 75.0)


def test_float_scores_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    scores = np.zeros((1, 7, 2, 2), np.float32)

    def predict(images: NDArray[np.uint8]) -> layer_errors.Prediction:
        seen.append(int(images[0, 0, 0, 0]))
        return layer_errors.Prediction(scores.argmax(axis=1), scores)

    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1, 1)
    kept = layer_errors._FloatScores(predict)
    for _ in range(2):
        for image in images:
            kept(image)
    assert seen == [0, 1, 2]
    monkeypatch.setattr(layer_errors, "_KEPT_BYTES", 0)
    forgetful = layer_errors._FloatScores(predict)
    forgetful(images[0])
    forgetful(images[0])
    assert seen == [0, 1, 2, 0, 0]


def test_groups() -> None:
    names = ["patch_embed/linear/MatMul", "encoder/0/qkv/MatMul", "encoder/0/fc1/MatMul",
             "encoder/10/fc2/MatMul"]  # fmt: skip
    assert list(group_products(names, "layer")) == names
    assert {key: len(group) for key, group in group_products(names, "block").items()} == {
        "patch_embed": 1, "encoder/0": 2, "encoder/10": 1,
    }  # fmt: skip


def test_groups_of_something_else_are_refused() -> None:
    model = traced_graph()
    ranges = _calibrate(model)
    for group in (frozenset[str](), frozenset({"head/MatMul"})):
        errors = measure_layer_errors(_meter(model, ranges), {"odd": group})
        with pytest.raises(ValueError, match="group 'odd': expected products that int8 quantises"):
            next(errors)
    with pytest.raises(ValueError, match="expected at least one, got none"):
        ErrorMeter(model, INT8, ranges, IMAGES[:0], None, 7)


def test_no_image_is_drawn_twice(photos: Path) -> None:
    held_out, images = draw_images(photos, photos, (6, 64), (64, 64), CLASSES, 0)
    assert images is not None
    assert (len(held_out.images), len(images.images)) == (4, 4)
    drawn = np.concatenate([held_out.images, images.images])
    assert len({image.tobytes() for image in drawn}) == 8
    assert held_out.truth is None


def test_a_single_image_cannot_serve_twice(tmp_path: Path) -> None:
    write_png(tmp_path / "only.png", IMAGES[0])
    with pytest.raises(ValueError, match="give --calibration-images another folder"):
        draw_images(tmp_path, tmp_path, (4, 4), (64, 64), CLASSES, 0)


def test_resume_measures_what_is_missing(
    onnx_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = onnx_path.parent / "out"
    assert _run(onnx_path, photos, "--by", "block") == 0
    assert {path.name for path in out.iterdir()} == {
        "sensitivity.json", "sensitivity.csv", "sensitivity.png", "ranges.json",
    }  # fmt: skip
    whole = json.loads((out / "sensitivity.json").read_text())
    assert json.loads(capsys.readouterr().out) == whole
    names = [layer["name"] for layer in whole["layers"]]
    assert names == ["patch_embed", *(f"encoder/{block}" for block in range(4))]
    assert (out / "sensitivity.csv").read_text().splitlines()[0] == (
        "name,score_rms,label_agreement,miou_drop_points"
    )
    height, width, _ = read_image(out / "sensitivity.png").shape
    assert width >= 700
    assert height > 200
    (out / "sensitivity.json").write_text(json.dumps(whole | {"layers": whole["layers"][:3]}))
    measured = []
    real = measure_layer_errors

    def watch(meter, groups, *rest):  # type: ignore[no-untyped-def]
        measured.extend(groups)
        return real(meter, groups, *rest)

    monkeypatch.setattr(sensitivity, "measure_layer_errors", watch)
    assert _run(onnx_path, photos, "--by", "block", "--resume") == 0
    assert measured == names[3:]
    again = json.loads((out / "sensitivity.json").read_text())
    assert again["setup"] == whole["setup"]
    for got, expected in zip(again["layers"], whole["layers"], strict=True):
        assert got["score_rms"] == pytest.approx(expected["score_rms"], rel=1e-3)


def test_an_interruption_keeps_what_was_measured(
    onnx_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> object:
        yield layer_errors.LayerError("patch_embed", 0.5, 0.25)
        raise KeyboardInterrupt

    monkeypatch.setattr(sensitivity, "measure_layer_errors", stop)
    with pytest.raises(KeyboardInterrupt, match=r"sensitivity.json is whole; go on with --resume"):
        _run(onnx_path, photos, "--by", "block")
    kept = json.loads((onnx_path.parent / "out" / "sensitivity.json").read_text())
    assert (kept["groups"], len(kept["layers"])) == (5, 1)

    # Another graph, other images or another grouping: nothing to go on with.
    other = traced_graph()
    _spoil(other)
    other.metadata_props["classes"] = json.dumps(CLASSES)
    changed = onnx_path.with_name("other.onnx")
    ir.save(other, changed)
    with pytest.raises(ValueError, match=r"with another graph: expected .*new folder"):
        _run(changed, photos, "--by", "block", "--resume")
    with pytest.raises(ValueError, match="another by: expected layer, got block"):
        _run(onnx_path, photos, "--resume")
    with pytest.raises(ValueError, match="another images: expected 3 images"):
        _run(onnx_path, photos, "--by", "block", "--resume", "--num-images", "3")
    with pytest.raises(ValueError, match="another calibration: expected 3 of"):
        _run(onnx_path, photos, "--by", "block", "--resume", "--num-calibration-images", "3")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"groups": 3}'])
def test_damaged_results_are_not_gone_on_with(onnx_path: Path, photos: Path, text: str) -> None:
    path = onnx_path.parent / "out" / "sensitivity.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"holds no results to go on with.*leave out --resume"):
        _run(onnx_path, photos, "--resume")
    assert path.read_text() == text


def test_graphs_that_cannot_be_measured(onnx_path: Path, photos: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such ONNX file"):
        _run(onnx_path.with_name("none.onnx"), photos)
    onnx_path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="is no ONNX model"):
        _run(onnx_path, photos)
    model = traced_graph()
    ir.save(model, onnx_path)
    with pytest.raises(ValueError, match="expected a JSON list of class names"):
        _run(onnx_path, photos)
    model.metadata_props["precision"] = '"int8"'
    ir.save(model, onnx_path)
    with pytest.raises(ValueError, match="expected a float graph in fp32 or fp16, got int8"):
        _run(onnx_path, photos)


@pytest.mark.parametrize("extra", [["--num-images", "0"], ["--ranges", "r.json",
                                    "--calibration-images", "photos"]])  # fmt: skip
def test_arguments_that_make_no_sense(extra: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        sensitivity.main(["--onnx", "model.onnx", "--int8", "--out", "out", *extra])
    assert caught.value.code == 2


def test_errors_are_placed_by_kind_and_depth() -> None:
    names = ("patch_embed/linear/MatMul", "encoder/0/qkv/MatMul", "encoder/11/fc2/MatMul",
             "encoder/3")  # fmt: skip
    assert list(place_errors(dict.fromkeys(names, 1.0))) == [
        ("patch_embed", 0), ("qkv", 0), ("fc2", 11), ("block", 3),
    ]  # fmt: skip


def test_the_picture_has_a_cell_for_every_error() -> None:
    cells = {("qkv", 0): 1e-4, ("qkv", 2): 1e-2, ("fc1", 1): 0.0}
    picture = draw_strip(cells, "INT8")
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 700
    # Corners of cells, where no figure stands: viridis from dark violet to yellow, grey if empty.
    filled = {tuple(map(int, colour)) for colour in picture.reshape(-1, 3)}
    violet, yellow, grey = (68, 1, 84), (253, 231, 37), (236, 236, 236)
    assert {violet, yellow, grey} <= filled
    rows, columns = np.nonzero((picture == yellow).all(axis=2))
    cell = picture[rows.max() - 1, columns.min() + 1]
    assert tuple(map(int, cell)) == yellow
    wide = draw_strip({("qkv", block): 1e-3 * (block + 1) for block in range(24)}, "INT8")
    assert wide.shape[1] > 24 * 60


def test_equal_errors_have_a_picture_too() -> None:
    assert draw_strip({("qkv", 0): 0.0}, "INT8").shape == draw_strip({("qkv", 0): 1.0}, "").shape


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_errors_without_a_colour(value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"0 or more, got [{value}]")):
        draw_strip({("qkv", 0): value}, "INT8")
    with pytest.raises(ValueError, match="expected finite errors"):
        draw_strip({}, "INT8")


def test_figures_are_short() -> None:
    assert [format_error(value) for value in (0, 0.00123, 12.0)] == ["0", "1.2e-3", "1.2e1"]
