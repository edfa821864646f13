"""Ranges read from a copy of the graph are those of the full graph's own tensors."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibration.collect import (
    check_calibration_images,
    collect_ranges,
    expose_tensors,
    observe_tensors,
)
from calibration.ranges import hash_graph
from export.passes.cast_precision import CastPrecisionPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images

GELU, NORM, HEAD = "encoder/1/Gelu", "encoder/0/norm1/LayerNormalization", "head/Add_1"
NAMES = (GELU, NORM, HEAD)
IMAGES = random_images(5, 64, 64)


@lru_cache
def full_graph_values(count: int) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that the whole graph, labels included, gives for the first images."""
    model = traced_graph()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in NAMES)
    runs = [run_graph(model, image[None])[1:] for image in IMAGES[:count]]
    parts = zip(NAMES, zip(*runs, strict=True), strict=True)
    return {name: np.concatenate(part).astype(np.float32) for name, part in parts}


def small_graph(op_type: str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """Return a graph from `image` (B, 2, 2, 3) to its cast and one operator's result."""
    shape = ir.Shape(["batch", 2, 2, 3])
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    cast = ir.node("Cast", [image], {"to": dtype.value}, name="cast")
    result = ir.node(op_type, cast.outputs, name="result")
    for node in (cast, result):
        value = node.outputs[0]
        value.name, value.type, value.shape = f"{node.name}_out", ir.TensorType(dtype), shape
    graph = ir.Graph(
        [image], result.outputs, nodes=[cast, result], name="small", opset_imports={"": 20}
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 3), (2, 3)])
def test_limits_are_the_full_graph_s(sizes: tuple[int, ...]) -> None:
    model = traced_graph()
    before = hash_graph(model)
    batches = np.split(IMAGES, np.cumsum(sizes)[:-1])
    collected = collect_ranges(model, NAMES[:2], batches, "amax", 127, False, [HEAD, NORM])
    expected = full_graph_values(5)
    assert collected.images == 5
    assert list(collected.limits) == [GELU, NORM, HEAD]
    assert list(collected.channel_amax) == [HEAD, NORM]
    for name in NAMES:
        assert collected.limits[name] == pytest.approx(np.abs(expected[name]).max(), rel=1e-5)
    for name, amax in collected.channel_amax.items():
        flat = np.abs(expected[name]).reshape(-1, expected[name].shape[-1])
        np.testing.assert_allclose(amax, flat.max(axis=0), rtol=1e-5)
    assert hash_graph(model) == before


def test_other_methods_are_read_from_one_observation() -> None:
    observed = observe_tensors(traced_graph(), NAMES, [IMAGES], False)
    percentile = collect_ranges(
        traced_graph(), NAMES, [IMAGES], "percentile", 127, False, percentile=99
    )
    for name, observer in observed.observers.items():
        values = np.abs(full_graph_values(5)[name])
        assert observer.count == values.size
        assert percentile.limits[name] == observer.limit("percentile", 127, 99)
        expected = np.percentile(values, 99, method="inverted_cdf")
        assert percentile.limits[name] == pytest.approx(expected, abs=2 * observer.bin_width)


def test_a_last_batch_that_is_not_full_counts_once() -> None:
    """On a graph of two images a call, the fifth image is repeated and its double left out."""
    pairs = observe_tensors(traced_graph(batch=2), NAMES, [IMAGES[:3], IMAGES[3:]], False)
    assert pairs.images == 5
    for name, observer in pairs.observers.items():
        values = full_graph_values(5)[name]
        assert observer.count == values.size
        assert observer.amax == pytest.approx(np.abs(values).max(), rel=1e-5)


def test_a_dynamic_batch_runs_image_by_image() -> None:
    observed = observe_tensors(small_graph("Neg"), ["result_out"], [IMAGES[:, :2, :2]] * 2, False)
    assert observed.images == 10
    assert observed.observers["result_out"].count == 10 * 12
    assert observed.observers["result_out"].amax == IMAGES[:, :2, :2].max()


def test_a_half_precision_graph_is_calibrated_too() -> None:
    model = traced_graph()
    CastPrecisionPass(ir.DataType.FLOAT16)(model)
    limits = collect_ranges(model, NAMES, [IMAGES], "amax", 127, False).limits
    for name in NAMES:
        assert limits[name] == pytest.approx(np.abs(full_graph_values(5)[name]).max(), rel=0.01)


def test_nothing_beyond_the_tensors_is_computed() -> None:
    exposed = expose_tensors(traced_graph(), [NORM])
    assert [value.name for value in exposed.graph.outputs] == [NORM]
    assert {node.name.split("/")[0] for node in exposed.graph if node.name} == {
        "patch_embed", "encoder",
    }  # fmt: skip
    assert not [node for node in exposed.graph if node.op_type == "MatMul" and "qkv" in node.name]
    assert "encoder.3.fc2.weight" not in exposed.graph.initializers


def test_the_bar_counts_images(capsys: pytest.CaptureFixture[str]) -> None:
    batches = [IMAGES[:, :2, :2]]
    collect_ranges(small_graph("Neg"), ["result_out"], batches, "amax", 127, True, total=5)
    assert re.search(r"calibrate: +100%.* 5/5 ", capsys.readouterr().err)


def test_values_that_are_not_finite_name_layer_and_image() -> None:
    images = np.full((3, 2, 2, 3), 7, np.uint8)
    images[1, 0, 0, 0] = 0
    expected = "calibration image 2: tensor 'result_out': expected finite values, got 0 NaN and 1 "
    with pytest.raises(ValueError, match=expected):
        collect_ranges(small_graph("Reciprocal"), ["result_out"], [images], "amax", 127, False)


def test_tensors_that_cannot_be_observed() -> None:
    model = traced_graph()
    with pytest.raises(ValueError, match="'encoder/9/Gelu' is given by no node of the graph"):
        collect_ranges(model, ["encoder/9/Gelu"], [IMAGES], "amax", 127, False)
    with pytest.raises(ValueError, match="'labels': expected FLOAT or FLOAT16, got UINT8"):
        collect_ranges(model, ["labels"], [IMAGES], "amax", 127, False)
    with pytest.raises(ValueError, match="expected tensors to observe, got none"):
        collect_ranges(model, [], [IMAGES], "amax", 127, False)
    wide = small_graph("Neg", ir.DataType.BFLOAT16)
    with pytest.raises(ValueError, match="got BFLOAT16; calibrate the FP32 graph"):
        collect_ranges(wide, ["result_out"], [IMAGES], "amax", 127, False)


def test_images_that_do_not_fit() -> None:
    model = small_graph("Neg")
    fitting = IMAGES[:, :2, :2]
    with pytest.raises(ValueError, match="expected at least one, got none; see --images"):
        collect_ranges(model, ["cast_out"], [fitting[:0]], "amax", 127, False)
    for wrong in (IMAGES, fitting.astype(np.float32), fitting[0]):
        with pytest.raises(ValueError, match=r"expected uint8 \(n, 2, 2, 3\), got (uint8|float32)"):
            collect_ranges(model, ["cast_out"], [wrong], "amax", 127, False)


def test_graphs_that_are_not_ours() -> None:
    other = small_graph("Neg")
    other.graph.inputs[0].dtype = ir.DataType.FLOAT
    with pytest.raises(
        ValueError, match=r"expected one input UINT8 \(B, H, W, 3\), got 'image' FL"
    ):
        collect_ranges(other, ["cast_out"], [IMAGES], "amax", 127, False)
    with pytest.raises(ValueError, match=r"does not load on ONNX Runtime: .*NoSuchOperator"):
        collect_ranges(small_graph("NoSuchOperator"), ["result_out"], [IMAGES], "amax", 1, False)


def test_good_images_give_no_warnings() -> None:
    assert check_calibration_images(random_images(32, 16, 16)) == ()


def test_warnings_about_images() -> None:
    few = random_images(4, 16, 16)
    few[2] = (0, 128, 255)
    assert check_calibration_images(few) == (
        "4 calibration images are few, so ranges may be too narrow; give 32 or more.",
        "1 of 4 calibration images are of one colour (first: number 3).",
    )
    same = np.repeat(random_images(1, 16, 16), 32, axis=0)
    assert check_calibration_images(same) == ("All 32 calibration images are the same.",)
    for divisor, largest in ((128, 1), (32, 7)):
        (warning,) = check_calibration_images(random_images(32, 16, 16) // divisor)
        assert warning.startswith(f"Calibration pixels lie within 0 and {largest}: they look norm")
    (warning,) = check_calibration_images(random_images(32, 16, 16) // 20)
    assert re.match(r"The mean of the calibration pixels is 6\.2, that of photographs", warning)


def test_images_that_cannot_serve() -> None:
    with pytest.raises(ValueError, match="expected at least one, got none"):
        check_calibration_images(np.zeros((0, 4, 4, 3), np.uint8))
    flat = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 4, 4, 3))
    with pytest.raises(ValueError, match="expected photographs, got 40 of one colour each"):
        check_calibration_images(flat)
    for wrong in (np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 3, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"expected uint8 \(n, H, W, 3\), got"):
            check_calibration_images(wrong)  # type: ignore[arg-type]
