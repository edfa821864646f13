"""Equalisation of packed projections: the same function, columns that are even, near misses."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.qdq_insertion import list_products
from calibration.qkv_equalisation import QkvEqualisationPass
from calibration.quantization import Calibration, calibrate, quantise_model
from calibration.ranges import hash_graph
from calibration.rescaling import balance, floor_log2, room_above, room_below
from calibration.rewriting import Rewrite
from calibration.scheme import SCHEMES, LayerRule, Scheme
from export.deploy import DeployModel
from export.passes.attention_sums import AttentionSumsPass
from export.passes.cast_precision import CastPrecisionPass
from export.passes.node_names import NodeNamesPass
from export.trace import trace_model
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import make_dino_config, make_model, random_images
from tests.tolerances import REWRITTEN_FP16_RMS

INT8 = SCHEMES["int8"]
QKV, PROJ = "encoder.1.qkv.weight", "encoder.1.proj.weight"
PRODUCT = "encoder/1/qkv/MatMul"
CHANNELS = 48
IMAGES = random_images(1, 64, 64)


def _array(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def _scale(model: ir.Model, name: str, columns: object, factor: float, axis: int = 1) -> None:
    array = _array(model, name).copy()
    array[(slice(None), columns) if axis else columns] *= factor
    model.graph.initializers[name].const_value = ir.Tensor(array, name=name)


def plant_columns(model: ir.Model) -> None:
    """Make one query column huge and its key column as small, and all values small."""
    _scale(model, QKV, 5, 64.0)
    _scale(model, QKV, CHANNELS + 5, 1 / 64)
    _scale(model, QKV, slice(2 * CHANNELS, None), 1 / 8)
    _scale(model, PROJ, slice(None), 8.0, axis=0)


def _cast(model: ir.Model) -> ir.Model:
    CastPrecisionPass(ir.DataType.FLOAT16)(model)
    return model


@lru_cache
def _rotary() -> ir.Model:
    model = trace_model(DeployModel(make_model(make_dino_config("dinov3")), (64, 64)), (64, 64), 1)
    NodeNamesPass()(model)
    return model


def _even(model: ir.Model, scheme: Scheme = INT8) -> bool:
    return bool(QkvEqualisationPass(scheme)(model).modified)


@pytest.mark.parametrize("head", ["cascade", "shrunk"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_fires_once_and_changes_no_bit(head: str, scheme: Scheme) -> None:
    """FP32 scores are equal bit by bit: every sum is of the same digits."""
    model = traced_graph(head, output="scores")
    if head == "cascade":
        plant_columns(model)
    expected = run_graph(model.clone(), IMAGES)[0]
    before = hash_graph(model)
    assert _even(model, scheme)
    assert hash_graph(model) != before
    assert np.array_equal(run_graph(model, IMAGES)[0], expected)
    after = hash_graph(model)
    assert not _even(model, scheme)
    assert hash_graph(model) == after


@pytest.mark.parametrize("head", ["cascade", "shrunk"])
def test_half_precision_keeps_its_digits(head: str) -> None:
    model = traced_graph(head, output="scores")
    if head == "cascade":
        plant_columns(model)
    model = _cast(model)
    expected = run_graph(model.clone(), IMAGES)[0]
    assert _even(model)
    dtypes = {value.dtype for value in model.graph.initializers.values()}
    assert ir.DataType.FLOAT not in dtypes
    assert relative_rms(run_graph(model, IMAGES)[0], expected) < REWRITTEN_FP16_RMS
    assert not _even(model)


def test_columns_by_hand() -> None:
    model = traced_graph(output="scores")
    plant_columns(model)
    before = _array(model, QKV)
    assert _even(model)
    after = _array(model, QKV)
    query, key, value = (np.abs(part).max(axis=0) for part in np.split(after, 3, axis=1))
    assert (np.maximum(query / key, key / query) <= 2).all()
    common = max(query.max(), key.max())
    assert ((value <= common) & (value > common / 2)).all()
    # The range of the whole is what its even pairs need, not what one column had.
    assert np.abs(after).max() < np.abs(before).max() / 16


@pytest.mark.parametrize("head", ["cascade", "shrunk"])
def test_every_block_is_rewritten(head: str) -> None:
    model = traced_graph(head, output="scores")
    before = model.clone()
    assert _even(model)
    changed = {
        name for name in model.graph.initializers
        if not np.array_equal(_array(model, name), _array(before, name))
    }  # fmt: skip
    blocks = {".".join(name.split(".")[1:3]) for name in changed}
    expected = {f"{block}.{part}" for block in range(4) for part in ("qkv", "proj")}
    if head == "shrunk":
        expected = expected - {"2.qkv"} | {"2.query", "2.key_value"}
    assert blocks == expected


def test_rotary_positions_are_refused() -> None:
    """They turn pairs of channels into one another, so no two may be scaled apart."""
    assert not _even(_rotary().clone())


def _read_projection_twice(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.name == "encoder/1/qkv/MatMul")
    model.graph.outputs.append(node.outputs[0])


def _read_context_twice(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.name == "encoder/1/proj/MatMul")
    assert node.inputs[0] is not None
    model.graph.outputs.append(node.inputs[0])


def _swap_axes(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.name == "encoder/1/Transpose_2")
    node.attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 1, 3])


def _add_bias(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.name == "encoder/1/qkv/Split")
    bias = model.graph.initializers["encoder.1.fc1.bias"]
    added = ir.node("Add", [node.inputs[0], bias], name="encoder/1/qkv/Add")
    model.graph.insert_before(node, added)
    node.replace_input_with(0, added.outputs[0])


@pytest.mark.parametrize(
    "change", [_read_projection_twice, _read_context_twice, _swap_axes, _add_bias]
)
def test_near_misses_stay(change: object) -> None:
    model = traced_graph(output="scores")
    assert _even(model)  # the other blocks are even from here on
    change(model)  # type: ignore[operator]
    plant_columns(model)
    assert not _even(model)


def test_a_scale_a_column_or_none_needs_nothing() -> None:
    for rules in ((), (LayerRule(r"encoder/\d+/qkv/MatMul", "channel"),)):
        assert not _even(
            traced_graph(output="scores"), Scheme("int8", ir.DataType.INT8, 127.0, rules)
        )


def test_a_weight_that_something_else_reads_is_copied() -> None:
    model = traced_graph(output="scores")
    plant_columns(model)
    nodes = {node.name: node for node in model.graph}
    shared = nodes["encoder/1/qkv/MatMul"].inputs[1]
    nodes["encoder/3/qkv/MatMul"].replace_input_with(1, shared)
    expected = run_graph(model.clone(), IMAGES)[0]
    assert _even(model)
    assert nodes["encoder/3/qkv/MatMul"].inputs[1] is not nodes["encoder/1/qkv/MatMul"].inputs[1]
    assert np.array_equal(run_graph(model, IMAGES)[0], expected)
    assert not _even(model)


def test_dead_columns_stay() -> None:
    model = traced_graph(output="scores")
    for columns in (3, CHANNELS + 7, 2 * CHANNELS + 9):
        _scale(model, QKV, columns, 0.0)
    expected = run_graph(model.clone(), IMAGES)[0]
    assert _even(model)
    assert np.array_equal(run_graph(model, IMAGES)[0], expected)


def test_planted_columns_cost_less() -> None:
    """One query column sets the scale of the packed weight: unless it is evened out."""
    model = traced_graph(output="scores")
    plant_columns(model)
    expected = run_graph(model.clone(), IMAGES)[0]
    images = (random_images(4, 64, 64, seed=1), "noise")

    def measure(rewrites: tuple[Rewrite, ...]) -> float:
        quantised = model.clone()
        calibration = Calibration(images, progress=False, rewrites=rewrites)
        ranges = calibrate(model, INT8, calibration)
        others = {str(node.name) for node, _ in list_products(model.graph, INT8)} - {PRODUCT}
        quantise_model(quantised, INT8, ranges, frozenset(others))
        return relative_rms(run_graph(quantised, IMAGES)[0], expected)

    assert measure(("equalisation",)) < 0.4 * measure(())


MAGNITUDES = st.floats(2.0**-40, 2.0**14)


@given(MAGNITUDES, MAGNITUDES)
def test_balance_is_within_two_and_done_once(first: float, second: float) -> None:
    a, b = np.array([first]), np.array([second])
    moved = balance(a, b)
    a, b = a * np.exp2(-moved), b * np.exp2(moved)
    assert 0.5 <= a[0] / b[0] < 2
    assert balance(a, b)[0] == 0


@given(MAGNITUDES)
def test_room_is_used_up_once(magnitude: float) -> None:
    value = np.array([magnitude])
    assert 2.0 ** floor_log2(value)[0] <= magnitude < 2.0 ** (floor_log2(value)[0] + 1)
    below, above = room_below(value), room_above(value, 768)
    assert room_below(value * np.exp2(-below))[0] == 0
    assert room_above(value * np.exp2(above), 768)[0] == 0
    if below[0]:
        assert magnitude * 2.0 ** -below[0] >= 2.0**-9
    if above[0]:
        assert magnitude * 2.0 ** above[0] * 768 < 65504


def test_casts_that_ask_for_fp32_sums_are_looked_through() -> None:
    plain = traced_graph()
    plant_columns(plain)
    casts = _cast(plain).clone()
    assert AttentionSumsPass()(casts).modified
    assert _even(plain)
    assert _even(casts)
    for name in plain.graph.initializers:
        np.testing.assert_array_equal(_array(casts, name), _array(plain, name))
