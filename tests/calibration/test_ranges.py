"""The file calibrated ranges are kept in, and the fingerprint of a graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.ranges import Ranges, hash_graph
from tests.graphs import traced_graph

RANGES = Ranges(
    "ab" * 32, "entropy", 128, {"encoder/0/Gelu": 3.25, "head/Add": 0.1}, ("few",), "128 tiles",
    ("migration",), {"encoder/0/norm1": (0, -2, 3)},
)  # fmt: skip


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ranges.json"
    RANGES.save(path)
    assert Ranges.load(path) == RANGES
    assert json.loads(path.read_text())["limits"]["encoder/0/Gelu"] == 3.25


def test_a_file_from_before_the_rewrites(tmp_path: Path) -> None:
    """Its limits are of the graph as it is, which is not rewritten then."""
    path = tmp_path / "ranges.json"
    RANGES.save(path)
    document = json.loads(path.read_text())
    del document["rewrites"], document["migration"]
    path.write_text(json.dumps(document))
    assert Ranges.load(path) == replace(RANGES, rewrites=(), migration={})


@given(limit=st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_limits_survive_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, limit: float
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    ranges = replace(RANGES, limits={"a": limit})
    ranges.save(path)
    assert Ranges.load(path) == ranges


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"a": "x"}}, r"limits\['a'\]: expected a finite number, got 'x'"),
        ({"limits": {"a": 0}}, r"limits\['a'\]: expected above 0 and finite, got 0"),
        ({"limits": {"a": -1.5}}, r"limits\['a'\]: expected above 0 and finite, got -1.5"),
        ({"limits": [1]}, "limits: expected an object"),
        (
            {"migration": {"a": [1, 0.5]}},
            r"migration\['a'\]\[1\]: expected a whole number, got 0.5",
        ),
        ({"migration": {"a": [1, -99]}}, r"migration\['a'\]: expected up to 30, got -99"),
        ({"rewrites": "migration"}, "rewrites: expected a list"),
        ({"images": -1}, "images: expected 0 or more, got -1"),
        ({"images": 1.5}, "images: expected a whole number"),
        ({"schema": 99}, "expected schema 1, got 99 of a later version"),
    ],
)
def test_damaged_fields_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "ranges.json"
    RANGES.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        Ranges.load(path)
    assert str(path) in str(caught.value)
    assert "calibrate again, without --ranges" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"limits": NaN}', "\udcff"])
def test_files_that_are_no_ranges(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"ranges\.json' holds no calibrated ranges: "):
        Ranges.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Ranges.load(tmp_path / "none.json")


def test_limits_nothing_could_be_divided_by() -> None:
    for limit in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"limits\['a'\]: expected above 0 and finite"):
            replace(RANGES, limits={"a": limit})


def test_another_graph_is_refused() -> None:
    RANGES.check_graph("ab" * 32)
    expected = (
        "are of another graph: expected cdcdcdcdcdcd…, got abababababab…; .* again, without --ra"
    )
    with pytest.raises(ValueError, match=expected):
        RANGES.check_graph("cd" * 32)


@pytest.mark.parametrize("batch", [1, None])
def test_storage_and_metadata_do_not_count(tmp_path: Path, batch: int | None) -> None:
    model = traced_graph(batch=batch)
    expected = hash_graph(model)
    assert len(expected) == 64
    model.metadata_props["version"] = "2"
    model.graph.doc_string = "a graph"
    next(iter(model.graph)).metadata_props["source"] = "elsewhere"
    assert hash_graph(model) == expected
    ir.save(model, tmp_path / "inside.onnx")
    ir.save(model, tmp_path / "beside.onnx", external_data="beside.data")
    assert hash_graph(ir.load(tmp_path / "inside.onnx")) == expected
    assert hash_graph(ir.load(tmp_path / "beside.onnx")) == expected


def _change_weight(model: ir.Model) -> None:
    value = model.graph.initializers["encoder.0.qkv.weight"]
    assert value.const_value is not None
    weight = value.const_value.numpy().copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    value.const_value = ir.tensor(weight, name=value.name)


def _change_attribute(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.25)


def _change_operator(model: ir.Model) -> None:
    next(node for node in model.graph if node.op_type == "Gelu").op_type = "Relu"


def _change_name(model: ir.Model) -> None:
    next(node for node in model.graph if node.op_type == "Gelu").outputs[0].name = "renamed"


def _change_wiring(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "Sub")
    node.replace_input_with(1, node.inputs[0])


@pytest.mark.parametrize(
    "change", [_change_weight, _change_attribute, _change_operator, _change_name, _change_wiring]
)
def test_what_the_graph_computes_counts(change: object) -> None:
    model = traced_graph()
    before = hash_graph(model)
    change(model)  # type: ignore[operator]
    assert hash_graph(model) != before


def test_a_graph_of_another_batch_differs() -> None:
    assert hash_graph(traced_graph()) != hash_graph(traced_graph(batch=None))


def test_subgraphs_and_constants_count() -> None:
    def build(constant: float) -> ir.Model:
        inner = ir.node("Constant", [], {"value": ir.tensor(np.float32(constant), name="c")})
        branch = ir.Graph([], inner.outputs, nodes=[inner], name="branch")
        condition = ir.Value(name="condition", type=ir.TensorType(ir.DataType.BOOL))
        node = ir.node("If", [condition], {"then_branch": branch, "else_branch": branch.clone()})
        graph = ir.Graph([condition], node.outputs, nodes=[node], name="g", opset_imports={"": 20})
        return ir.Model(graph, ir_version=10)

    assert hash_graph(build(1)) == hash_graph(build(1))
    assert hash_graph(build(1)) != hash_graph(build(2))
