"""The part of `export.build` that is for INT8 and FP8 alone: calibrate, search, quantise."""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from calibration.budget import FRONTIER_NAME, BudgetSearch, Frontier, Point, SearchSetup, Speed
from calibration.frontier import PICTURE_NAME, TABLE_NAME, format_frontier, write_frontier
from calibration.images import load_calibration_images
from calibration.layer_errors import ErrorMeter
from calibration.quantization import Calibration, calibrate, quantise_model
from calibration.ranges import RANGES_NAME, Ranges, hash_graph
from calibration.scheme import Scheme
from engines.audit import audit_engine, check_audit
from engines.devices import parse_device
from engines.ort_runtime import open_session
from engines.roofline import DEFAULT_GPU, GPUS, Gpu, count_flops, estimate_ms, find_gpu
from engines.target import (
    COMPILERS,
    Target,
    installed_version,
    missing_reason,
    own_compute_capability,
)
from engines.trt_builder import BuildOptions, build_engine
from export.check_images import CheckImages, Masks, load_check_images
from export.manifest import Manifest
from export.verify import ParityError
from segvit.atomic import make_folder
from segvit.config import SegViTConfig
from segvit.model import Size

Say = Callable[[str], None]
DEFAULT_SEARCH_IMAGES = 64
# Rounds of an interleaved comparison; slow graphs get fewer, at least three.
_ROUNDS, _MIN_ROUNDS, _SECONDS = 15, 3, 20.0


class Quantisation(NamedTuple):
    """What a quantised build needs beside the graph."""

    scheme: Scheme
    config: SegViTConfig
    size: Size
    targets: Sequence[Target]
    out: Path


def quantise_graph(
    arguments: argparse.Namespace,
    graph: ir.Model,
    wanted: Quantisation,
    manifest: Manifest,
    folder: Path,
    say: Say,
) -> Manifest:
    """Calibrate and quantise the graph in place; return the manifest with what was warned of.

    Raises:
        ValueError: if it cannot be calibrated.
        ParityError: if no mixed precision holds the budget; the search stays beside the artifact.
    """
    scheme = wanted.scheme
    if arguments.ranges:
        calibration = Calibration(ranges=Ranges.load(arguments.ranges))
    else:
        images = load_calibration_images(
            arguments.calibration_images, wanted.size, arguments.num_calibration_images,
            arguments.seed,
        )  # fmt: skip
        calibration = Calibration(images, arguments.calibration_method)
    calibration = replace(calibration, progress=not arguments.json)
    ranges = calibrate(graph, scheme, calibration)
    ranges.save(folder / RANGES_NAME)
    say(f"{scheme.name}: ranges by {ranges.method} of {ranges.source}")
    kept: frozenset[str] = frozenset()
    warnings = ranges.warnings
    if arguments.max_miou_drop is not None:
        frontier, point = _search(arguments, graph, ranges, wanted, say)
        kept, warnings = frozenset(point.kept), (*warnings, *_recommend(arguments, frontier, point))
        write_frontier(frontier, arguments.max_miou_drop, folder)
        frontier.save(folder / FRONTIER_NAME)
    products = quantise_model(graph, scheme, ranges, kept)
    say(f"{scheme.name}: {sum(p.is_quantised for p in products)} of {len(products)} products")
    return replace(manifest, warnings=manifest.warnings + warnings)


def _hash_ranges(ranges: Ranges) -> str:
    return hashlib.sha256(json.dumps(asdict(ranges), sort_keys=True).encode()).hexdigest()


def search_folder(out: Path) -> Path:
    """Return where the search for an artifact is kept until that is written."""
    return out.with_name(f"{out.name}.search")


def remove_search(out: Path) -> None:
    """Delete the search of an artifact that is written and has a copy of it."""
    folder = search_folder(out)
    for name in (FRONTIER_NAME, TABLE_NAME, PICTURE_NAME):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def check_search(arguments: argparse.Namespace, targets: Sequence[Target]) -> None:
    """Refuse, before anything long, a search that could not rank what it finds.

    Raises:
        ValueError: if a target asked for cannot be built here, none can, sizes are open, or the GPU
            to estimate for is unknown or lacks the precision.
    """
    missing = {target: missing_reason(target) for target in targets or list(Target)}
    unbuilt = [f"target '{target}' cannot be built here: {why}" for target, why in missing.items()
               if why]  # fmt: skip
    if unbuilt and (targets or len(unbuilt) == len(missing)):
        raise ValueError(unbuilt[0])
    compiles = any(why is None for target, why in missing.items() if target in COMPILERS)
    if compiles and arguments.batch[0] != arguments.batch[2]:
        raise ValueError(
            "--max-miou-drop: engines of a dynamic batch have no known sizes to estimate times of; "
            "search with a fixed --batch, or with --target ort alone"
        )
    if not compiles:
        if missing.get(Target.ORT, "not asked for"):
            raise ValueError(
                "--max-miou-drop: nothing to rank by on OpenVINO alone; add --target ort, which is "
                "timed, or a compiler"
            )
        return
    gpu = _choose_gpu(arguments, missing)
    if arguments.precision == "fp8" and "FP8" not in gpu.tera_ops:
        raise ValueError(f"--estimate-gpu: {gpu.name} has no FP8; name one that has, such as L4")


def _choose_gpu(arguments: argparse.Namespace, targets: Iterable[Target]) -> Gpu:
    """Return the GPU to estimate for: the one named, or one like that which TensorRT builds on."""
    if arguments.estimate_gpu:
        return GPUS[arguments.estimate_gpu]
    if Target.TRT not in targets or missing_reason(Target.TRT):
        return GPUS[DEFAULT_GPU]
    own = own_compute_capability()
    gpu = find_gpu(own)
    if gpu is None:
        raise ValueError(
            f"--max-miou-drop: no peaks are known for this machine's {own}; name the GPU nearest "
            f"to it with --estimate-gpu: {', '.join(GPUS)}"
        )
    return gpu


def _search(
    arguments: argparse.Namespace,
    graph: ir.Model,
    ranges: Ranges,
    wanted: Quantisation,
    say: Say,
) -> tuple[Frontier, Point]:
    budget = arguments.max_miou_drop
    held_out = _load_search_images(arguments, wanted)
    meter = ErrorMeter(
        graph, wanted.scheme, ranges, held_out.images, held_out.truth, wanted.config.num_classes,
        against_float=True,
    )  # fmt: skip
    source = held_out.source
    if held_out.truth is None:
        source += ", against the float graph's own labels"
    speed = _SpeedMeter(arguments, graph, wanted)
    setup = SearchSetup(
        graph_sha256=hash_graph(graph),
        ranges_sha256=_hash_ranges(ranges),
        scheme=wanted.scheme.name,
        images=source,
        images_sha256=hashlib.sha256(np.ascontiguousarray(held_out.images).data).hexdigest(),
        speed=speed.description,
    )
    folder = search_folder(wanted.out)
    make_folder(folder)
    say(f"search: a drop of at most {budget:g} points on {source}; kept in {folder}")
    search = BudgetSearch(
        graph, wanted.scheme, ranges, meter, speed, folder / FRONTIER_NAME, not arguments.json
    )
    try:
        frontier = search.run(setup, budget)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the search so far is in '{folder}', and the same command goes on with it"
        ) from None
    write_frontier(frontier, budget, folder)
    say(format_frontier(frontier, budget))
    point = frontier.choose(budget)
    if point is None:
        best = min(frontier.points, key=lambda found: found.miou_drop_points)
        raise ParityError(
            f"{wanted.scheme.name} cannot hold a drop of {budget:g} points: the best of "
            f"{len(frontier.points)} mixed precisions tried, {best.quantised} products quantised, "
            f"drops {best.miou_drop_points:.3f}; all are in '{folder}' ({TABLE_NAME}, "
            f"{PICTURE_NAME}); build with --{arguments.float_type}, or allow more"
        )
    return frontier, point


def _recommend(arguments: argparse.Namespace, frontier: Frontier, point: Point) -> tuple[str, ...]:
    """Return the recommendation, if it is not to quantise."""
    if not frontier.loses_to_float(point):
        return ()
    assert frontier.float_speed is not None
    unit = "ms estimated" if point.speed.estimated_ms is not None else "times the float graph"
    ours, floats = point.speed.cost, frontier.float_speed.cost
    advice = f"--{arguments.float_type} is recommended"
    return (
        f"{arguments.precision.upper()} gains nothing here: {ours:.3f} {unit}, the float graph "
        f"{floats:.3f} ({frontier.setup.speed}); {advice}.",
    )


def _load_search_images(arguments: argparse.Namespace, wanted: Quantisation) -> CheckImages:
    """Return images that calibrate nothing: the user's to verify on, or validation tiles."""
    masks = Masks(arguments.masks, arguments.reduce_zero_label) if arguments.masks else None
    return load_check_images(
        arguments.images, wanted.config, wanted.size,
        arguments.num_search_images or DEFAULT_SEARCH_IMAGES, arguments.seed, "val", masks,
    )  # fmt: skip


class _SpeedMeter:
    """The speed of a graph: by its audited engine, on ONNX Runtime, or both."""

    def __init__(
        self, arguments: argparse.Namespace, graph: ir.Model, wanted: Quantisation
    ) -> None:
        targets = [
            target for target in wanted.targets or list(Target) if not missing_reason(target)
        ]
        compilers = [target for target in targets if target in COMPILERS]
        self._arguments, self._precision = arguments, wanted.scheme.name
        self._compiler = compilers[0] if compilers else None
        self._gpu = _choose_gpu(arguments, targets)
        self._graph: ir.Model = graph
        self._float: Any = None
        self._images = np.zeros((arguments.batch[2], *wanted.size, 3), np.uint8)
        parts = []
        if self._compiler is not None:
            version = installed_version(self._compiler)
            parts.append(f"{self._gpu.name} at its peaks, {self._compiler} {version}")
        self._is_timed = Target.ORT in targets
        if self._is_timed:
            parts.append(f"ONNX Runtime {installed_version(Target.ORT)} CPU")
        self.description = " + ".join(parts)

    def __call__(self, model: ir.Model) -> Speed:
        with TemporaryDirectory() as folder:
            path = _save(model, Path(folder))
            estimate = None if self._compiler is None else self._estimate(path, self._compiler)
            ratio = None
            if self._is_timed:
                ratio = 1.0 if model is self._graph else self._time(path)
            return Speed(estimate, ratio)

    def _estimate(self, path: Path, compiler: Target) -> float:
        names = (self._gpu.compute_capability,)
        if compiler is Target.TRT:
            names = (own_compute_capability(),)
        options = BuildOptions(
            compute_capabilities=names, batch=self._arguments.batch,
            workspace_mib=self._arguments.workspace,
            optimization_level=self._arguments.optimization_level,
            timing_cache=self._arguments.timing_cache,
        )  # fmt: skip
        engine = build_engine(path, compiler, names, options, progress=False)
        check_audit(
            audit_engine(engine, path), self._precision, self._arguments.allow_unfused,
            allow_unaudited=self._arguments.allow_unaudited,
        )  # fmt: skip
        return estimate_ms(engine.kernels, count_flops(path), self._gpu)

    def _time(self, path: Path) -> float:
        if self._float is None:
            with TemporaryDirectory() as folder:
                self._float = open_session(_save(self._graph, Path(folder)), parse_device("cpu"))
        session = open_session(path, parse_device("cpu"))
        feed = {session.get_inputs()[0].name: self._images}
        ratios: list[float] = []
        started = time.perf_counter()
        for number in range(_ROUNDS + 1):
            before = time.perf_counter()
            self._float.run(None, feed)
            between = time.perf_counter()
            session.run(None, feed)
            if number:  # the first round warms up
                ratios.append((time.perf_counter() - between) / (between - before))
            if len(ratios) >= _MIN_ROUNDS and time.perf_counter() - started > _SECONDS:
                break
        return statistics.median(ratios)


def _save(model: ir.Model, folder: Path) -> Path:
    # Beside the graph, so that no size limit of the format stands in the way.
    ir.save(model, folder / "model.onnx", external_data="model.data")
    return folder / "model.onnx"
