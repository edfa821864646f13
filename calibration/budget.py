"""The fastest mixed precision that holds an mIoU budget: which products to free to the float type.

1. Each product alone is quantised and its score error measured (`calibration.layer_errors`).
2. Each kind of product alone (every qkv, every fc1, ...) is quantised and its speed measured: that
   and its share of the kind's arithmetic is the time a product saves.
3. Products are ordered by error per saved time, those that save nothing first, and freed from the
   front. A few counts are tried over the whole order, then the gap between the last that fails and
   the first that holds is halved until it closes.

Everything measured is written at once, so that an interrupted search goes on where it was.
Squared errors of products that are quantised together nearly add, so squares are what is ranked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Self

import onnx_ir as ir
from tqdm import tqdm

from calibration.layer_errors import ErrorMeter, LayerError, measure_layer_errors
from calibration.qdq_insertion import list_products
from calibration.quantization import quantise_model
from calibration.ranges import Ranges
from calibration.scheme import Scheme
from export.manifest_decode import decode
from export.verify import GATES
from segvit.atomic import write_bytes

FRONTIER_NAME = "frontier.json"
_SCHEMA = 1
# Shares of the products that save time: where the frontier is looked at whatever the budget.
_QUARTERS = (0.25, 0.5, 0.75)
# A gain below this share is less than estimates, or medians on a busy machine, can tell.
_WORTHWHILE = 0.02


@dataclass(frozen=True)
class Speed:
    """`estimated_ms` of an audited engine at a GPU's peaks, or `measured_ratio` to the float graph.

    The ratio is of medians, interleaved, on the runtime at hand. Estimates are what ranks where
    there are some.
    """

    estimated_ms: float | None = None
    measured_ratio: float | None = None

    @property
    def cost(self) -> float:
        """What ranks: smaller is faster; comparable within one search alone."""
        cost = self.measured_ratio if self.estimated_ms is None else self.estimated_ms
        assert cost is not None, "a search needs one of the two"
        return cost


MeasureSpeed = Callable[[ir.Model], Speed]


@dataclass(frozen=True)
class Point:
    """One mixed precision: which products stay float, what that keeps and how fast it is.

    `miou_drop_points` is against the float graph, in points of 100.
    """

    kept: tuple[str, ...]
    quantised: int
    score_rms: float
    label_agreement: float
    miou_drop_points: float
    speed: Speed


@dataclass(frozen=True)
class SearchSetup:
    """All that figures depend on; results of another one are measured anew."""

    graph_sha256: str
    ranges_sha256: str
    scheme: str
    images: str
    images_sha256: str
    speed: str


@dataclass(frozen=True)
class Frontier:
    """What a search has measured so far."""

    setup: SearchSetup
    float_speed: Speed | None = None
    layers: tuple[LayerError, ...] = ()
    kinds: dict[str, Speed] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    schema: int = _SCHEMA

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(path, f"{text}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what `save` wrote.

        Raises:
            ValueError: if it is damaged or of another version.
        """
        try:
            # RecursionError: a file of nothing but opening brackets.
            frontier = decode(cls, json.loads(path.read_bytes()))
            if frontier.schema != _SCHEMA:
                raise ValueError(f"expected schema {_SCHEMA}, got {frontier.schema}")
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"'{path}' holds no search to go on with: {error}; delete it to search anew"
            ) from error
        return frontier

    def holds(self, point: Point, budget_points: float) -> bool:
        """Return whether a point passes the budget and the gate of its precision on labels."""
        agreement = GATES[self.setup.scheme].pixel_agreement
        return point.miou_drop_points <= budget_points and point.label_agreement >= agreement

    def choose(self, budget_points: float) -> Point | None:
        """Return the fastest point with anything quantised that holds the budget."""
        holding = [p for p in self.points if p.quantised and self.holds(p, budget_points)]
        return min(holding, key=lambda point: (point.speed.cost, point.kept), default=None)

    def loses_to_float(self, point: Point) -> bool:
        """Return whether the float graph is as fast as a point, to what can be told, or faster."""
        assert self.float_speed is not None
        return self.float_speed.cost * (1 - _WORTHWHILE) <= point.speed.cost


class BudgetSearch:
    """A search over one float graph.

    Args:
        model: the float graph; left as it is.
        scheme: what a quantised product becomes.
        ranges: of this graph.
        meter: of this graph, on images that calibrated nothing, with ground truth.
        measure_speed: of a graph, float or quantised.
        path: of what is written after every measurement, and read to go on.
        progress: show bars.
    """

    def __init__(
        self,
        model: ir.Model,
        scheme: Scheme,
        ranges: Ranges,
        meter: ErrorMeter,
        measure_speed: MeasureSpeed,
        path: Path,
        progress: bool = True,
    ) -> None:
        self._model, self._scheme, self._ranges = model, scheme, ranges
        self._meter, self._measure_speed = meter, measure_speed
        self._path, self._progress = path, progress
        self._work = {
            str(node.name): _count_work(node) for node, _ in list_products(model.graph, scheme)
        }

    def run(self, setup: SearchSetup, budget_points: float) -> Frontier:
        """Return the frontier, going on with an earlier search of the same setup.

        Raises:
            ValueError: if the file to go on with is damaged, or a graph cannot be measured.
        """
        earlier = Frontier.load(self._path) if self._path.exists() else None
        self._frontier = (
            earlier if earlier is not None and earlier.setup == setup else Frontier(setup)
        )
        self._measure_float()  # first, since it fails at once where nothing can be ranked
        self._measure_layers()
        self._measure_kinds()
        order = order_products(self._frontier, self._work)
        saving = self._count_saving()
        self._try_counts(order, _spread_counts(len(order), saving))
        self._close_gap(order, budget_points)
        return self._frontier

    def _save(self, frontier: Frontier) -> None:
        self._frontier = frontier
        frontier.save(self._path)

    def _measure_layers(self) -> None:
        done = {layer.name for layer in self._frontier.layers}
        missing = {name: frozenset({name}) for name in self._work if name not in done}
        if not missing:
            return
        for layer in measure_layer_errors(self._meter, missing, self._progress):
            self._save(replace(self._frontier, layers=(*self._frontier.layers, layer)))

    def _measure_float(self) -> None:
        if self._frontier.float_speed is None:
            speed = self._measure_speed(self._model)
            self._save(replace(self._frontier, float_speed=speed))

    def _measure_kinds(self) -> None:
        kinds = dict.fromkeys(map(kind_of, self._work))
        missing = [kind for kind in kinds if kind not in self._frontier.kinds]
        for kind in tqdm(missing, desc="speed", unit="kind", disable=not self._progress):
            kept = frozenset(name for name in self._work if kind_of(name) != kind)
            speed = self._speed_without(kept)
            self._save(replace(self._frontier, kinds=self._frontier.kinds | {kind: speed}))

    def _count_saving(self) -> int:
        saved = share_savings(self._frontier, self._work)
        return sum(saved[name] > 0 for name in self._work)

    def _speed_without(self, kept: frozenset[str]) -> Speed:
        quantised = self._model.clone()
        quantise_model(quantised, self._scheme, self._ranges, kept)
        return self._measure_speed(quantised)

    def _try_counts(self, order: Sequence[str], counts: Sequence[int]) -> None:
        """Measure the points that free so many products of the order."""
        known = {point.kept for point in self._frontier.points}
        wanted = [tuple(sorted(order[:count])) for count in counts]
        missing = [kept for kept in dict.fromkeys(wanted) if kept not in known]
        for kept in tqdm(missing, desc="frontier", unit="point", disable=not self._progress):
            point = self._measure_point(kept)
            self._save(replace(self._frontier, points=(*self._frontier.points, point)))

    def _measure_point(self, kept: tuple[str, ...]) -> Point:
        group = frozenset(self._work) - set(kept)
        error = self._meter.measure(f"all but {len(kept)}", group)
        assert error.miou_drop_points is not None, "the meter has ground truth"
        return Point(
            kept, len(group), error.score_rms, error.label_agreement, error.miou_drop_points,
            self._speed_without(frozenset(kept)),
        )  # fmt: skip

    def _close_gap(self, order: Sequence[str], budget_points: float) -> None:
        """Halve the gap between the most that cannot be quantised and what can."""
        while True:
            holds = {len(p.kept): self._frontier.holds(p, budget_points)
                     for p in self._frontier.points}  # fmt: skip
            failing = [count for count, held in holds.items() if not held]
            low = max(failing, default=0)
            above = [count for count in holds if count > low]
            # With nothing quantised nothing is lost, and nothing measured.
            high = min(above, default=len(order))
            if not failing or high - low <= 1:
                return
            self._try_counts(order, [(low + high) // 2])


def kind_of(name: str) -> str:
    """Return what kind of product a node is: `fc1` of `encoder/3/fc1/MatMul`."""
    parts = name.removesuffix("/MatMul").split("/")
    return parts[2] if parts[0] == "encoder" and len(parts) > 2 else parts[0]


def share_savings(frontier: Frontier, work: Mapping[str, float]) -> dict[str, float]:
    """Return the cost that quantising each product saves: its kind's, by its share of the work."""
    assert frontier.float_speed is not None
    total: dict[str, float] = {}
    for name, amount in work.items():
        total[kind_of(name)] = total.get(kind_of(name), 0.0) + amount
    return {
        name: (frontier.float_speed.cost - frontier.kinds[kind_of(name)].cost)
        * amount
        / total[kind_of(name)]
        for name, amount in work.items()
    }


def order_products(frontier: Frontier, work: Mapping[str, float]) -> list[str]:
    """Return the products, the one to free first in front.

    Those that save no time come first, the costliest in front; then by squared score error per
    saved time.
    """
    saved = share_savings(frontier, work)
    errors = {layer.name: layer.score_rms**2 for layer in frontier.layers}

    def rank(name: str) -> tuple[bool, float]:
        if saved[name] <= 0:
            return False, saved[name]
        return True, -errors[name] / saved[name]

    return sorted(work, key=rank)


def _spread_counts(products: int, saving: int) -> list[int]:
    """Return how many to free at first: none, those that save nothing, quarters of the rest."""
    useless = products - saving
    counts = {0, useless, *(useless + round(share * saving) for share in _QUARTERS)}
    return sorted(count for count in counts if count < products)


def _count_work(node: ir.Node) -> float:
    """Return a product's multiply-adds an image."""
    activation, weight = node.inputs[0], node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shape = activation.shape if activation is not None else None
    rows = [size for size in list(shape)[1:-1] if isinstance(size, int)] if shape else []
    return float(prod(rows) * prod(map(int, weight.const_value.shape.numpy())))
