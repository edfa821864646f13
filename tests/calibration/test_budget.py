"""The budget search: on series with known answers, going on with a file, its table and plot."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest

from calibration.budget import (
    BudgetSearch,
    Frontier,
    Point,
    SearchSetup,
    Speed,
    kind_of,
    order_products,
)
from calibration.frontier import format_frontier, write_frontier
from calibration.layer_errors import LayerError
from calibration.qdq_insertion import list_products
from calibration.quantization import Calibration, calibrate
from calibration.ranges import Ranges
from calibration.scheme import SCHEMES
from tests.graphs import traced_graph
from tests.tiny_models import random_images

INT8 = SCHEMES["int8"]
SETUP = SearchSetup("graph", "ranges", "int8", "images", "pixels", "made up")
# Milliseconds that a product of each kind saves; fc1 costs time.
SAVED = {"patch_embed": 0.0, "qkv": 4.0, "fc1": -1.0, "fc2": 1.0}
FLOAT_MS = 100.0
NAMES = (
    "patch_embed/linear/MatMul",
    *(f"encoder/{block}/{kind}/MatMul" for block in range(4) for kind in ("qkv", "fc1", "fc2")),
)


@pytest.fixture(scope="module")
def ranges() -> Ranges:
    return calibrate(
        traced_graph(), INT8, Calibration((random_images(4, 64, 64), "noise"), progress=False)
    )


class Meter:
    """Drops that add; what is asked is kept."""

    def __init__(self, drops: Mapping[str, float]) -> None:
        self.drops, self.asked = drops, list[str]()

    def check_group(self, name: str, group: frozenset[str]) -> None:
        assert group <= set(NAMES), name

    def measure(self, name: str, group: frozenset[str]) -> LayerError:
        self.asked.append(name)
        drop = sum(self.drops.get(product, 0.001) for product in group)
        return LayerError(name, drop**0.5, 1 - drop / 100, drop)


def _speed(model: ir.Model) -> Speed:
    """Return what the products in INT8 save."""
    left = {str(node.name) for node, _ in list_products(model.graph, INT8)}
    return Speed(FLOAT_MS - sum(SAVED[kind_of(name)] for name in set(NAMES) - left))


def _search(ranges: Ranges, path: Path, meter: Meter) -> BudgetSearch:
    return BudgetSearch(traced_graph(), INT8, ranges, meter, _speed, path, False)  # type: ignore[arg-type]


def test_names_are_the_graphs() -> None:
    assert tuple(str(node.name) for node, _ in list_products(traced_graph().graph, INT8)) == NAMES


def test_the_one_bad_product_is_freed(ranges: Ranges, tmp_path: Path) -> None:
    bad = "encoder/2/qkv/MatMul"
    frontier = _search(ranges, tmp_path / "f.json", Meter({bad: 5.0})).run(SETUP, 0.3)
    point = frontier.choose(0.3)
    assert point is not None
    # Those that save no time, and the bad one; nothing else.
    freed = {name for name in NAMES if kind_of(name) in ("fc1", "patch_embed")} | {bad}
    assert set(point.kept) == freed
    assert point.speed.estimated_ms == pytest.approx(FLOAT_MS - 3 * 4 - 4 * 1)
    assert not frontier.loses_to_float(point)
    assert Frontier.load(tmp_path / "f.json") == frontier


def test_everything_holds_and_the_fastest_wins(ranges: Ranges, tmp_path: Path) -> None:
    frontier = _search(ranges, tmp_path / "f.json", Meter({})).run(SETUP, 0.3)
    point = frontier.choose(0.3)
    assert point is not None
    # Not the one with most quantised: fc1 costs time.
    assert point.speed.estimated_ms == pytest.approx(FLOAT_MS - 4 * 4 - 4 * 1)
    assert {kind_of(name) for name in point.kept} == {"fc1", "patch_embed"}


def test_order_is_error_per_saved_time() -> None:
    layers = tuple(LayerError(name, 0.2 if "/0/" in name else 0.1, 1.0, 0.0) for name in NAMES)
    kinds = {kind: Speed(FLOAT_MS - 4 * saved) for kind, saved in SAVED.items()}
    frontier = Frontier(SETUP, Speed(FLOAT_MS), layers, kinds)
    order = order_products(frontier, dict.fromkeys(NAMES, 1.0))
    assert [kind_of(name) for name in order[:5]] == ["fc1"] * 4 + ["patch_embed"]
    # fc2 saves a quarter of what qkv does: its 0.1 outweighs qkv's 0.1, and 0.2 ties with none.
    assert order[5] == "encoder/0/fc2/MatMul"
    # qkv of block 0 at 0.2 and 4 saved ties with fc2 at 0.1 and 1: the graph's order decides.
    assert set(order[6:10]) == {NAMES[1], NAMES[6], NAMES[9], NAMES[12]}
    assert [kind_of(name) for name in order[-3:]] == ["qkv"] * 3


def test_a_budget_that_nothing_holds(ranges: Ranges, tmp_path: Path) -> None:
    meter = Meter(dict.fromkeys(NAMES, 1.0))
    frontier = _search(ranges, tmp_path / "f.json", meter).run(SETUP, 0.3)
    assert frontier.choose(0.3) is None
    # Halving ended at the point with a single product left.
    assert min(point.quantised for point in frontier.points) == 1
    assert frontier.choose(1.0) is not None


def test_a_point_that_verification_would_refuse_holds_no_budget() -> None:
    # 5 points are within the budget, 0.97 of labels equal are below INT8's gate.
    fast = Point((), 13, 0.02, 0.97, 1.0, Speed(4.0))
    slow = replace(fast, kept=("encoder/0/fc1/MatMul",), label_agreement=0.99, speed=Speed(4.5))
    frontier = Frontier(SETUP, Speed(5.0), points=(fast, slow))
    assert frontier.choose(5.0) == slow


def test_a_float_graph_as_fast_is_said(ranges: Ranges, tmp_path: Path) -> None:
    frontier = _search(ranges, tmp_path / "f.json", Meter({})).run(SETUP, 0.3)
    point = frontier.choose(0.3)
    assert point is not None
    cost = point.speed.cost
    # A hundredth is less than an estimate can tell.
    for faster, loses in ((0.9, True), (1.0, True), (1.01, True), (1.1, False)):
        other = replace(frontier, float_speed=Speed(faster * cost))
        assert other.loses_to_float(point) == loses


def test_an_interrupted_search_goes_on(ranges: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "f.json"

    class Interrupted(Meter):
        def measure(self, name: str, group: frozenset[str]) -> LayerError:
            if len(self.asked) == 5:
                raise KeyboardInterrupt
            return super().measure(name, group)

    with pytest.raises(KeyboardInterrupt):
        _search(ranges, path, Interrupted({})).run(SETUP, 0.3)
    assert len(Frontier.load(path).layers) == 5
    meter = Meter({})
    whole = _search(ranges, path, meter).run(SETUP, 0.3)
    assert meter.asked[: len(NAMES) - 5] == list(NAMES[5:])
    again = Meter({})
    assert _search(ranges, path, again).run(SETUP, 0.3) == whole
    assert again.asked == []
    # A tighter budget needs points, not layers; another setup needs all anew.
    _search(ranges, path, again).run(SETUP, 0.006)
    assert again.asked
    assert not set(again.asked) & set(NAMES)
    other = Meter({})
    _search(ranges, path, other).run(replace(SETUP, images="others"), 0.3)
    assert other.asked[: len(NAMES)] == list(NAMES)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 99}', "[" * 100_000])
def test_a_damaged_search_is_refused(ranges: Ranges, tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ValueError, match="holds no search to go on with"):
        _search(ranges, tmp_path / "f.json", Meter({})).run(SETUP, 0.3)


def _frontier(measured: bool) -> Frontier:
    def speed(milliseconds: float) -> Speed:
        return Speed(milliseconds, milliseconds / 5 if measured else None)

    points = (
        Point((), 13, 0.02, 0.99, 0.5, speed(4.0)),
        Point(("encoder/0/fc1/MatMul", "encoder/1/fc1/MatMul"), 11, 0.01, 0.995, 0.1, speed(4.5)),
    )
    return Frontier(SETUP, speed(5.0), (), {}, points)


def test_the_table_marks_what_is_built() -> None:
    lines = format_frontier(_frontier(True), 0.3).splitlines()
    assert lines[0].split() == ["quantised", "mIoU", "drop", "labels", "equal", "estimate",
                                "measured", "kept", "float"]  # fmt: skip
    assert lines[1].split() == ["x", "13", "0.500", "0.99000", "4.000", "ms", "x", "0.80", "none"]
    assert lines[2].split() == ["*", "11", "0.100", "0.99500", "4.500", "ms", "x", "0.90", "2",
                                "fc1"]  # fmt: skip
    assert lines[3].split()[-1] == "all"


@pytest.mark.parametrize("measured", [False, True])
def test_the_plot_and_the_file(tmp_path: Path, measured: bool) -> None:
    write_frontier(_frontier(measured), 0.3, tmp_path)
    picture = cv2.imread(str(tmp_path / "frontier.png"))
    assert picture is not None
    assert picture.shape[0] > 400 * (2 if measured else 1)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    rows = (tmp_path / "frontier.csv").read_text().splitlines()
    assert len(rows) == 3
    assert rows[1].startswith("13,0,0.5,0.99,0.02,4.0,")
