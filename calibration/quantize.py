"""`python -m calibration.quantize`: an exported float ONNX file and images to INT8 or FP8."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import onnx
import onnx_ir as ir

from calibration.float_graph import read_float_graph, read_input_size
from calibration.images import load_calibration_images
from calibration.observers import Method
from calibration.quantization import (
    DEFAULT_METHOD,
    Calibration,
    calibrate,
    quantise_model,
)
from calibration.ranges import RANGES_NAME, Ranges
from calibration.rewriting import REWRITES
from calibration.scheme import SCHEMES
from export.trt_hygiene import list_violations
from segvit.atomic import replace_folder

MODEL_NAME = "model.onnx"
_LARGE_BYTES = 2_000_000_000  # of weights, which then go beside the file
_EPILOG = """\
example:
  python -m calibration.quantize --onnx artifacts/mine/model.onnx --images photos --int8 --out int8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Quantise one file."""
    arguments = _parse_arguments(argv)
    scheme = SCHEMES[arguments.precision]
    _check_out(arguments.out)
    model = read_float_graph(arguments.onnx)
    ranges = Ranges.load(arguments.ranges) if arguments.ranges else None
    images = None
    if ranges is None:
        size = read_input_size(model, arguments.onnx)
        images = load_calibration_images(
            arguments.images, size, arguments.num_images, arguments.seed
        )
    rewrites = None if arguments.rewrites is None else tuple(arguments.rewrites)
    calibration = Calibration(images, arguments.method, ranges, not arguments.json, rewrites)
    ranges = calibrate(model, scheme, calibration)
    products = quantise_model(model, scheme, ranges, frozenset(arguments.keep))
    if "precision" in model.metadata_props:
        model.metadata_props["precision"] = json.dumps(scheme.name)
    with replace_folder(arguments.out) as folder:
        _save(model, folder / MODEL_NAME)
        ranges.save(folder / RANGES_NAME)
        # The file may be for a CPU alone, so that this is no error.
        foreign = [f"no graph for TensorRT: {v}" for v in list_violations(folder / MODEL_NAME)]
    report = {
        "precision": scheme.name,
        "quantised": [product.name for product in products if product.is_quantised],
        "kept": [product.name for product in products if not product.is_quantised],
        "images": ranges.images,
        "source": ranges.source,
        "method": ranges.method,
        "rewrites": list(ranges.rewrites),
        "warnings": [*ranges.warnings, *foreign],
    }
    print(json.dumps(report, indent=2) if arguments.json else _describe(report, arguments.out))
    return 0


def _check_out(folder: Path) -> None:
    """Refuse to replace a folder of something else."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RANGES_NAME).is_file():
        raise ValueError(
            f"'{folder}' holds files but no {RANGES_NAME} and will not be replaced; give --out a "
            "new or empty folder"
        )


def _save(model: ir.Model, path: Path) -> None:
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values()
                  if v.const_value is not None)  # fmt: skip
    external = f"{path.name}.data" if weights > _LARGE_BYTES else None
    ir.save(model, path, external_data=external)
    onnx.checker.check_model(path, full_check=True)


def _describe(report: dict[str, object], out: Path) -> str:
    quantised, kept = report["quantised"], report["kept"]
    assert isinstance(quantised, list)
    assert isinstance(kept, list)
    lines = [
        f"{report['precision']}: {len(quantised)} products quantised, {len(kept)} kept float; "
        f"ranges by {report['method']} of {report['source']}{_join(report['rewrites'])}"
    ]
    warnings = report["warnings"]
    assert isinstance(warnings, list)
    lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join([*lines, f"wrote {out}: {MODEL_NAME}, {RANGES_NAME}"])


def _join(rewrites: object) -> str:
    assert isinstance(rewrites, list)
    return f"; rewritten by {' and '.join(rewrites)}" if rewrites else ""


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m calibration.quantize",
        description="Quantise an exported ONNX file: Q/DQ in the graph, which ONNX Runtime, "
        "TensorRT and TensorRT-RTX read alike. export.build --int8 does this and proves it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--onnx",
        type=Path,
        required=True,
        metavar="FILE",
        help="of export.build, FP32 or FP16",
    )
    precision = parser.add_mutually_exclusive_group(required=True)
    for name in SCHEMES:
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name)
    add("--images", type=Path, metavar="DIR",
        help="to calibrate on (default: land-cover training tiles)")  # fmt: skip
    add("--num-images", type=int, default=256, metavar="N", help="at most (default 256)")
    add("--method", choices=get_args(Method), default=DEFAULT_METHOD,
        help="what an activation's range is taken from (default %(default)s)")  # fmt: skip
    add("--rewrites", nargs="*", choices=REWRITES,
        help="exact rewrites of the float graph, or none; --ranges bring their own (default: "
        "equalisation in INT8, none in FP8)")  # fmt: skip
    add("--ranges", type=Path, metavar="FILE",
        help="ranges.json of the same graph; needs no images")  # fmt: skip
    add("--keep", nargs="+", default=[], metavar="NODE", help="products to leave float")
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--out", type=Path, required=True, metavar="DIR", help=f"gets {MODEL_NAME}, {RANGES_NAME}")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.num_images < 1:
        parser.error("--num-images must be at least 1")
    if arguments.ranges and arguments.images:
        parser.error("--ranges and --images exclude each other")
    if arguments.ranges and arguments.rewrites is not None:
        parser.error("--ranges bring the rewrites they were measured with; leave out --rewrites")
    return arguments


if __name__ == "__main__":
    run_main(main)
