"""`python -m calibration.sensitivity`: what quantising each layer alone costs a float graph."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import csv
import hashlib
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir

from calibration.float_graph import read_float_graph, read_input_size
from calibration.layer_errors import (
    ErrorMeter,
    Grouping,
    HeldOutImages,
    LayerError,
    draw_images,
    group_products,
    measure_layer_errors,
)
from calibration.qdq_insertion import list_products
from calibration.quantization import Calibration, calibrate
from calibration.ranges import RANGES_NAME, Ranges, hash_graph
from calibration.scheme import SCHEMES, Scheme
from calibration.strip import draw_strip, format_error, place_errors
from export.manifest_decode import decode
from segvit.atomic import make_folder, write_bytes
from segvit.images import write_png

RESULTS_NAME = "sensitivity.json"
TABLE_NAME = "sensitivity.csv"
PICTURE_NAME = "sensitivity.png"
_SCHEMA = 1
_EPILOG = """\
example:
  python -m calibration.sensitivity --onnx artifacts/mine/model.onnx --int8 --out sensitivity
"""


@dataclass(frozen=True)
class Setup:
    """All that figures depend on; a file is only gone on with where every field is the same."""

    graph_sha256: str
    scheme: str
    by: str
    images: str
    images_sha256: str
    calibration: str
    ranges_sha256: str


@dataclass(frozen=True)
class Results:
    """Groups measured so far, in the graph's order, out of `groups`."""

    setup: Setup
    groups: int
    layers: tuple[LayerError, ...] = ()
    schema: int = _SCHEMA

    def save(self, path: Path) -> None:
        """Write them as JSON, atomically."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(path, f"{text}\n".encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every group that is missing, then write the table and the picture."""
    arguments = _parse_arguments(argv)
    make_folder(arguments.out)
    path = arguments.out / RESULTS_NAME
    scheme = SCHEMES[arguments.precision]
    model = read_float_graph(arguments.onnx)
    class_names = _read_class_names(model, arguments.onnx)
    earlier = _load(path) if arguments.resume and path.exists() else None
    graph_sha256 = hash_graph(model)
    if earlier:  # before anything that takes long
        asked = {"graph_sha256": graph_sha256, "scheme": scheme.name, "by": arguments.by}
        _check_setup(path, earlier.setup, replace(earlier.setup, **asked))
    held_out, ranges = _prepare(arguments, model, scheme, class_names, earlier is not None)
    setup = Setup(
        graph_sha256, scheme.name, arguments.by, held_out.source, _hash_images(held_out),
        _describe_calibration(arguments), _hash_limits(ranges),
    )  # fmt: skip
    products = [str(node.name) for node, _ in list_products(model.graph, scheme)]
    groups = group_products(products, arguments.by)
    results = Results(setup, len(groups))
    if earlier:
        _check_setup(path, earlier.setup, setup)
        results = replace(results, layers=earlier.layers)
    results.save(path)
    done = {layer.name for layer in results.layers}
    missing = {name: group for name, group in groups.items() if name not in done}
    if missing:
        meter = ErrorMeter(model, scheme, ranges, held_out.images, held_out.truth, len(class_names))
        try:
            for layer in measure_layer_errors(meter, missing, not arguments.json):
                results = replace(results, layers=(*results.layers, layer))
                results.save(path)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{path} is whole; go on with --resume") from None
    _write_outputs(results, arguments.out, arguments.onnx)
    print(json.dumps(asdict(results), indent=2) if arguments.json else _format(results, ranges))
    if not arguments.json:
        print(f"wrote {arguments.out}: {RESULTS_NAME}, {TABLE_NAME}, {PICTURE_NAME}, {RANGES_NAME}")
    return 0


def _prepare(
    arguments: argparse.Namespace,
    model: ir.Model,
    scheme: Scheme,
    class_names: tuple[str, ...],
    is_resumed: bool,
) -> tuple[HeldOutImages, Ranges]:
    """Return the images to measure on and the ranges, which are kept beside the results."""
    path = arguments.out / RANGES_NAME
    given = Ranges.load(arguments.ranges) if arguments.ranges else None
    if given is None and is_resumed and path.exists():
        given = Ranges.load(path)
    held_out, images = draw_images(
        arguments.images,
        None if arguments.ranges else arguments.calibration_images or arguments.images,
        (arguments.num_images, 0 if given else arguments.num_calibration_images),
        read_input_size(model, arguments.onnx),
        class_names,
        arguments.seed,
    )
    progress = not arguments.json
    ranges = calibrate(model, scheme, Calibration(images, ranges=given, progress=progress))
    ranges.save(path)
    return held_out, ranges


def _load(path: Path) -> Results:
    try:
        # RecursionError: a file of nothing but opening brackets.
        results = decode(Results, json.loads(path.read_bytes()))
        if results.schema != _SCHEMA:
            raise ValueError(f"expected schema {_SCHEMA}, got {results.schema}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"'{path}' holds no results to go on with: {error}; leave out --resume to measure anew"
        ) from error
    return results


def _check_setup(path: Path, found: Setup, expected: Setup) -> None:
    for item in fields(Setup):
        got, wanted = getattr(found, item.name), getattr(expected, item.name)
        if got != wanted:
            name = item.name.removesuffix("_sha256")
            raise ValueError(
                f"'{path}' was measured with another {name}: expected {wanted[:80]}, got "
                f"{got[:80]}; give --out a new folder, or leave out --resume to measure anew"
            )


def _read_class_names(model: ir.Model, path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(model.metadata_props.get("classes", "null"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"'{path}': expected a JSON list of class names in the metadata 'classes', got none; "
            "give a file that python -m export.build made"
        )
    return tuple(map(str, names))


def _describe_calibration(arguments: argparse.Namespace) -> str:
    if arguments.ranges:
        return "--ranges"
    folder = arguments.calibration_images or arguments.images
    source = f"'{folder}'" if folder else "land-cover training tiles"
    return f"{arguments.num_calibration_images} of {source}, seed {arguments.seed}"


def _hash_images(held_out: HeldOutImages) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(held_out.images).data)
    if held_out.truth is not None:
        digest.update(np.ascontiguousarray(held_out.truth).data)
    return digest.hexdigest()


def _hash_limits(ranges: Ranges) -> str:
    return hashlib.sha256(json.dumps(ranges.limits, sort_keys=True).encode()).hexdigest()


def _write_outputs(results: Results, out: Path, onnx: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in fields(LayerError)])
    writer.writeheader()
    writer.writerows(asdict(layer) for layer in results.layers)
    write_bytes(out / TABLE_NAME, text.getvalue().encode())
    cells = place_errors({layer.name: layer.score_rms for layer in results.layers})
    setup = results.setup
    title = f"{setup.scheme.upper()}: relative RMS score error, one {setup.by} quantised at a time"
    write_png(out / PICTURE_NAME, draw_strip(cells, title))


def _format(results: Results, ranges: Ranges) -> str:
    layers = sorted(results.layers, key=lambda layer: layer.score_rms, reverse=True)
    width = max(len(layer.name) for layer in layers) + 2
    lines = [f"{results.setup.by:{width}}{'score error':>12}{'labels equal':>14}{'mIoU drop':>12}"]
    for layer in layers:
        points = layer.miou_drop_points
        drop = "" if points is None else f"{round(points, 3) + 0.0:.3f}"  # no -0.000
        figures = f"{format_error(layer.score_rms):>12}{layer.label_agreement:14.5f}{drop:>12}"
        lines.append(f"{layer.name:{width}}{figures}")
    worst, setup = layers[0], results.setup
    median = statistics.median(layer.score_rms for layer in layers)
    lines.append(
        f"{setup.scheme}: {len(layers)} {setup.by}s on {setup.images}, ranges of "
        f"{ranges.source or ranges.method}; '{worst.name}' costs most, a score error of "
        f"{format_error(worst.score_rms)} (median {format_error(median)})"
    )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in ranges.warnings)])


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m calibration.sensitivity",
        description="Quantise one layer, or one block, of a float graph at a time and measure on "
        "held-out images what that does to scores, labels and mIoU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", type=Path, required=True, metavar="FILE", help="of export.build, FP32 or FP16")
    precision = parser.add_mutually_exclusive_group(required=True)
    for name in SCHEMES:
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name)
    add("--images", type=Path, metavar="DIR",
        help="to measure on (default: land-cover test tiles)")  # fmt: skip
    add("--num-images", type=int, default=32, metavar="N", help="at most (default %(default)s)")
    add("--calibration-images", type=Path, metavar="DIR",
        help="to calibrate on (default: others of --images, else land-cover training tiles)",
        )  # fmt: skip
    add("--num-calibration-images", type=int, default=64, metavar="N",
        help="at most (default %(default)s)")  # fmt: skip
    add("--ranges", type=Path, metavar="FILE",
        help="ranges.json of the same graph; nothing is calibrated")  # fmt: skip
    add("--by", choices=get_args(Grouping), default="layer",
        help="what is quantised at a time (default %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--out", type=Path, required=True, metavar="DIR",
        help=f"gets {RESULTS_NAME} after every layer, {TABLE_NAME} and {PICTURE_NAME} at the end; "
        "earlier ones are replaced")  # fmt: skip
    add("--resume", action="store_true", help=f"go on with {RESULTS_NAME} in --out, if there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    for option in ("num_images", "num_calibration_images"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1")
    if arguments.ranges and arguments.calibration_images:
        parser.error("--ranges and --calibration-images exclude each other")
    return arguments


if __name__ == "__main__":
    run_main(main)
