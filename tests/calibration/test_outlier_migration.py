"""Migration of a norm's outliers: the same function, exponents by hand, near misses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibration.outlier_migration import OutlierMigrationPass, find_exponents, list_migratable
from calibration.qdq_insertion import list_products
from calibration.quantization import Calibration, calibrate, quantise_model
from calibration.ranges import Ranges, hash_graph
from calibration.rewriting import Rewrite, rewrite_model
from calibration.scheme import SCHEMES, Scheme
from export.passes.cast_precision import CastPrecisionPass
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import random_images
from tests.tolerances import REWRITTEN_FP16_RMS

INT8 = SCHEMES["int8"]
NORM = "encoder/1/norm1/LayerNormalization"
QKV, PRODUCT = "encoder.1.qkv.weight", "encoder/1/qkv/MatMul"
CHANNELS = 48
IMAGES = random_images(1, 64, 64)
CALIBRATION = (random_images(4, 64, 64, seed=1), "noise")


def _node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def _operand(model: ir.Model, name: str, index: int) -> np.ndarray:
    value = _node(model, name).inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _exponents(model: ir.Model, scheme: Scheme = INT8) -> dict[str, tuple[int, ...]]:
    """Return exponents of every kind, the same for each norm."""
    pattern = tuple(int(e) for e in np.arange(CHANNELS) % 7 - 3)
    return dict.fromkeys(list_migratable(model.graph, scheme), pattern)


def plant_outlier(model: ir.Model, channel: int = 11, factor: float = 128.0) -> None:
    """Make a channel of a norm large and what its weights do with it as small."""
    norm, qkv = _node(model, NORM), model.graph.initializers[QKV]
    for index in (1, 2):
        array = _operand(model, NORM, index).copy()
        array[channel] *= factor
        value = ir.Value(
            name=f"planted_{index}", shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.Tensor(array),
        )  # fmt: skip
        model.graph.initializers.add(value)
        norm.replace_input_with(index, value)
    weight = _operand(model, "encoder/1/qkv/MatMul", 1).copy()
    weight[channel] /= factor
    qkv.const_value = ir.Tensor(weight, name=QKV)


@pytest.mark.parametrize("head", ["cascade", "shrunk"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_fires_once_and_changes_no_bit(head: str, scheme: Scheme) -> None:
    """FP32 scores are equal bit by bit: every sum is of the same digits."""
    model = traced_graph(head, output="scores")
    expected = run_graph(model.clone(), IMAGES)[0]
    migration = OutlierMigrationPass(_exponents(model, scheme))
    assert migration(model).modified
    assert np.array_equal(run_graph(model, IMAGES)[0], expected)
    after = hash_graph(model)
    assert not migration(model).modified
    assert hash_graph(model) == after


def test_half_precision_keeps_its_digits() -> None:
    model = traced_graph(output="scores")
    CastPrecisionPass(ir.DataType.FLOAT16)(model)
    expected = run_graph(model.clone(), IMAGES)[0]
    assert OutlierMigrationPass(_exponents(model))(model).modified
    assert _operand(model, NORM, 1).dtype == np.float16
    assert relative_rms(run_graph(model, IMAGES)[0], expected) < REWRITTEN_FP16_RMS


def test_shared_scales_become_the_norm_s_own() -> None:
    model = traced_graph(output="scores")
    before = model.clone()
    exponents = tuple([2] + [0] * (CHANNELS - 1))
    assert OutlierMigrationPass({NORM: exponents})(model).modified
    assert _operand(model, NORM, 1)[:2].tolist() == [0.25, 1.0]
    assert _operand(model, NORM, 2)[:2].tolist() == [0.0625, 0.25]
    weight, old = (_operand(graph, "encoder/1/qkv/MatMul", 1) for graph in (model, before))
    assert np.array_equal(weight[0], 4 * old[0])
    assert np.array_equal(weight[1:], old[1:])
    assert _operand(model, "encoder/0/norm1/LayerNormalization", 1)[0] == 1
    assert set(before.graph.initializers) < set(model.graph.initializers)


def test_what_a_scheme_migrates() -> None:
    """FP8 leaves fc1 float, and what only float products read has no outliers to lose by."""
    names = list_migratable(traced_graph(output="scores").graph, INT8)
    assert names == [
        f"encoder/{block}/norm{index}/LayerNormalization" for block in range(4) for index in (1, 2)
    ]
    fp8 = list_migratable(traced_graph(output="scores").graph, SCHEMES["fp8"])
    assert fp8 == [f"encoder/{block}/norm1/LayerNormalization" for block in range(4)]
    shrunk = list_migratable(traced_graph("shrunk", output="scores").graph, INT8)
    assert "encoder/2/norm1/LayerNormalization_1" in shrunk


def _expose(model: ir.Model) -> None:
    model.graph.outputs.append(_node(model, NORM).outputs[0])


def _read_by_another(model: ir.Model) -> None:
    node = ir.node("Neg", [_node(model, NORM).outputs[0]], name="negated")
    model.graph.append(node)


def _compute_scale(model: ir.Model) -> None:
    norm = _node(model, NORM)
    node = ir.node("Neg", [norm.inputs[1]], name="negated")
    model.graph.insert_before(norm, node)
    norm.replace_input_with(1, node.outputs[0])


def _read_as_weight(model: ir.Model) -> None:
    norm = _node(model, NORM)
    node = ir.node("MatMul", [norm.inputs[1], norm.outputs[0]], name="turned")
    model.graph.append(node)


@pytest.mark.parametrize("change", [_expose, _read_by_another, _compute_scale, _read_as_weight])
def test_near_misses_stay(change: object) -> None:
    model = traced_graph(output="scores")
    change(model)  # type: ignore[operator]
    assert NORM not in list_migratable(model.graph, INT8)
    assert not OutlierMigrationPass({NORM: (1,) * CHANNELS})(model).modified


@pytest.mark.parametrize("exponents", [(), (1,), (1,) * (CHANNELS + 1), (0,) * CHANNELS])
def test_exponents_that_fit_no_norm(exponents: tuple[int, ...]) -> None:
    assert not OutlierMigrationPass({NORM: exponents})(traced_graph(output="scores")).modified


def test_exponents_by_hand() -> None:
    model = traced_graph(output="scores")
    weight = np.full((CHANNELS, 3 * CHANNELS), 0.5, np.float32)
    weight[0], weight[1] = 0.125, 0.0
    model.graph.initializers[QKV].const_value = ir.Tensor(weight, name=QKV)
    amax = np.full(CHANNELS, 2.0, np.float32)  # sqrt(2 / 0.5) = 2: the median
    amax[0] = 8.0  # sqrt(8 / 0.125) = 8, a quarter of it beyond the median
    amax[2] = 128.0  # sqrt(128 / 0.5) = 16
    found = find_exponents(model.graph, {NORM: amax})
    assert list(found) == [NORM]
    exponents = found[NORM]
    assert (exponents[0], exponents[2]) == (2, 3)
    assert exponents[1] > 3  # no weight reads it: out of the way
    assert set(exponents[3:]) == {0}


def test_channels_that_never_move() -> None:
    amax = np.zeros(CHANNELS, np.float32)
    amax[4] = 1.0
    exponents = find_exponents(traced_graph(output="scores").graph, {NORM: amax})[NORM]
    assert len(exponents) == CHANNELS
    assert max(map(abs, exponents)) <= 12


def test_a_planted_outlier_costs_less() -> None:
    """One channel sets the scale of the norm's output: unless the weights take it."""
    model = traced_graph(output="scores")
    plant_outlier(model)
    expected = run_graph(model.clone(), IMAGES)[0]

    def measure(rewrites: tuple[Rewrite, ...]) -> float:
        quantised = model.clone()
        calibration = Calibration(CALIBRATION, progress=False, rewrites=rewrites)
        ranges = calibrate(model, INT8, calibration)
        others = {str(node.name) for node, _ in list_products(model.graph, INT8)} - {PRODUCT}
        quantise_model(quantised, INT8, ranges, frozenset(others))
        return relative_rms(run_graph(quantised, IMAGES)[0], expected)

    assert measure(("migration",)) < 0.4 * measure(())


def test_ranges_say_how_to_rewrite() -> None:
    """Ranges alone give the graph that they were measured on, and leave the one given alone."""
    model = traced_graph(output="scores")
    plant_outlier(model)
    before = hash_graph(model)
    rewrites: tuple[Rewrite, ...] = ("migration", "equalisation")
    calibration = Calibration(CALIBRATION, progress=False, rewrites=rewrites)
    ranges = calibrate(model, INT8, calibration)
    assert hash_graph(model) == before == ranges.graph_sha256
    assert (ranges.rewrites, set(ranges.migration)) == (
        rewrites, set(list_migratable(model.graph, INT8)),
    )  # fmt: skip
    assert calibrate(model, INT8, Calibration(ranges=ranges)) == ranges
    rewritten = model.clone()
    rewrite_model(rewritten, INT8, ranges.rewrites, ranges.migration)
    assert np.array_equal(run_graph(rewritten, IMAGES)[0], run_graph(model, IMAGES)[0])
    plain = calibrate(rewritten, INT8, Calibration(CALIBRATION, progress=False, rewrites=()))
    assert plain.limits == ranges.limits


def test_unknown_rewrites() -> None:
    ranges = Ranges("ab" * 32, "amax", 1, {"a": 1.0}, rewrites=("rotation",))
    expected = "rewrite 'rotation': expected one of migration, equalisation"
    with pytest.raises(ValueError, match=expected):
        quantise_model(traced_graph(output="scores"), INT8, ranges)
