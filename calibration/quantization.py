"""Calibrate and quantise a float graph: what `calibration.quantize` and `export.build` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from calibration.collect import check_calibration_images, collect_ranges
from calibration.images import CalibrationImages
from calibration.observers import Method
from calibration.qdq_insertion import QdqInsertionPass, list_activations, list_products
from calibration.ranges import Ranges, hash_graph
from calibration.rewriting import (
    Rewrite,
    check_rewrites,
    find_migration,
    find_rewrites,
    rewrite_model,
)
from calibration.scheme import Scheme

# The largest magnitude seen: on land cover as good as any other for INT8, and the only one that
# says anything of FP8, whose steps grow with the value.
DEFAULT_METHOD: Method = "amax"


@dataclass(frozen=True)
class Calibration:
    """How ranges are found.

    `images` are needed unless `ranges` of the same graph are given, which say how it was rewritten;
    `rewrites` are of a graph whose ranges are to be found, None takes the scheme's usual ones.
    """

    images: CalibrationImages | None = None
    method: Method = DEFAULT_METHOD
    ranges: Ranges | None = None
    progress: bool = True
    rewrites: tuple[Rewrite, ...] | None = None


class QuantisedProduct(NamedTuple):
    """A product of a scheme: its node's name, and whether it is quantised or stays float."""

    name: str
    is_quantised: bool


def calibrate(model: ir.Model, scheme: Scheme, calibration: Calibration) -> Ranges:
    """Return the ranges of all activations that a scheme quantises in a float graph.

    They are those of the graph as `quantise_model` rewrites it; the one given is left as it is.

    Raises:
        ValueError: if there are no images and no ranges of this graph, the images cannot serve, an
            activation is not finite (its layer is named), the graph has no product to quantise, or
            a rewrite is unknown.
    """
    graph_sha256 = hash_graph(model)
    products = list_products(model.graph, scheme)
    if not products:
        raise ValueError(
            f"nothing to quantise in {scheme.name}: expected a float graph made by python -m "
            "export.build with encoder/…/MatMul nodes, got none of them; is it quantised already?"
        )
    tensors = list_activations(model.graph, scheme)
    if calibration.ranges is not None:
        calibration.ranges.check_graph(graph_sha256)
        _check_complete(calibration.ranges, tensors, scheme)
        return calibration.ranges
    if scheme.dtype != ir.DataType.INT8 and calibration.method in ("entropy", "mse"):
        raise ValueError(
            f"method '{calibration.method}' counts steps of equal size, which {scheme.name} does "
            "not have; give amax or percentile"
        )
    if calibration.images is None:
        raise ValueError(f"{scheme.name} needs images to calibrate on; give --images DIR")
    images, source = calibration.images
    warnings = check_calibration_images(images)
    rewrites, progress = calibration.rewrites, calibration.progress
    if rewrites is None:
        rewrites = find_rewrites(scheme)
    check_rewrites(rewrites)
    migrates = "migration" in rewrites
    migration = find_migration(model, scheme, images, progress) if migrates else {}
    rewritten = model.clone()
    rewrite_model(rewritten, scheme, rewrites, migration)
    collected = collect_ranges(
        rewritten, tensors, [images], calibration.method, scheme.largest, progress,
        total=len(images),
    )  # fmt: skip
    return Ranges(
        graph_sha256, calibration.method, len(images), collected.limits, warnings, source,
        rewrites, migration,
    )  # fmt: skip


def quantise_model(
    model: ir.Model, scheme: Scheme, ranges: Ranges, kept: frozenset[str] = frozenset()
) -> tuple[QuantisedProduct, ...]:
    """Quantise a float graph in place; return what became of the scheme's products.

    It is rewritten first as it was to find the ranges, what stays float too: that costs nothing.

    Args:
        model: FP32 or FP16.
        scheme: what to quantise.
        ranges: of this graph and scheme.
        kept: names of products to leave float.

    Raises:
        ValueError: if `kept` names what is no product of the scheme.
    """
    names = [str(node.name) for node, _ in list_products(model.graph, scheme)]
    unknown = sorted(kept - set(names))
    if unknown:
        raise ValueError(f"'{unknown[0]}' is no product that {scheme.name} quantises")
    rewrite_model(model, scheme, ranges.rewrites, ranges.migration)
    QdqInsertionPass(scheme, ranges.limits, kept)(model)
    return tuple(QuantisedProduct(name, name not in kept) for name in names)


def _check_complete(ranges: Ranges, tensors: Sequence[str], scheme: Scheme) -> None:
    missing = [name for name in tensors if name not in ranges.limits]
    if missing:
        raise ValueError(
            f"the calibrated ranges lack '{missing[0]}' and {len(missing) - 1} more, which "
            f"{scheme.name} needs; calibrate again, without --ranges"
        )
