"""`python -m benchmarks.precision`: what keeping parts of an FP16 graph in FP32 would gain."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from export.check_images import load_check_images
from export.deploy import DeployModel
from export.passes import PRECISIONS
from export.passes.cast_precision import CastPrecisionPass
from export.passes.node_names import NodeNamesPass
from export.score_reader import ScoreReader
from export.trace import trace_model
from export.verify import ParityReport, Prediction, compare
from segvit.checkpoint import load_checkpoint
from segvit.prediction import predict_scores
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

# What is kept in FP32, as a pattern over node names; none is the graph that is shipped.
KEPT: dict[str, str | None] = {
    "nothing": None,
    "upsampling and class mix": "^tail/",
    "class softmax": "^head/classifier/",
    "decode head": "^head/",
    "LayerNorms": "LayerNormalization",
    "attention softmaxes": r"/Softmax(_\d+)?$",
    "encoder's residual stream": r"^(patch_embed|encoder/\d+)/Add(_\d+)?$",
}
_EPILOG = """\
example:
  python -m benchmarks.precision --model vit_t_landcover --num-images 16
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare every form with PyTorch in FP32."""
    arguments = _parse_arguments(argv)
    model = load_checkpoint(arguments.checkpoint or shipped_checkpoint(arguments.model))
    config = model.config
    size = (config.image_size, config.image_size)
    check = load_check_images(arguments.images, config, size, arguments.num_images, seed=0)
    traced = trace_model(DeployModel(model, size), size, 1)
    NodeNamesPass()(traced)

    def reference(images: NDArray[Any]) -> Prediction:
        scores = predict_scores(model, images)
        return Prediction(scores.argmax(axis=1), scores)

    reports = {}
    for name, pattern in KEPT.items():
        reader = _read_cast(traced.clone(), pattern, config.num_classes)
        progress = not arguments.json
        reports[name] = compare(
            reference, reader, check.images, check.truth, config.num_classes, 1, progress
        )
    result = {
        "machine": describe_machine(),
        "model": config.name,
        "images": check.source,
        "kept_in_fp32": {name: asdict(report) for name, report in reports.items()},
    }
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else _format(reports))
    return 0


def _read_cast(graph: ir.Model, pattern: str | None, num_classes: int) -> ScoreReader:
    dtype = PRECISIONS["fp16"]
    assert dtype is not None
    CastPrecisionPass(dtype, {pattern: ir.DataType.FLOAT} if pattern else None)(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(graph, path)
        return ScoreReader(path, num_classes)


def _format(reports: dict[str, ParityReport]) -> str:
    lines = [f"{'kept in FP32':28}{'labels equal':>14}{'score RMS':>12}{'mIoU':>9}"]
    for name, report in reports.items():
        miou = "" if report.miou is None else f"{report.miou:.4f}"
        lines.append(f"{name:28}{report.pixel_agreement:14.5f}{report.score_rms:12.1e}{miou:>9}")
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description="Measure, on ONNX Runtime, how close an FP16 graph comes to PyTorch when parts "
        "of it stay in FP32.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE")
    source.add_argument("--model", choices=SHIPPED_MODELS, default=SHIPPED_MODELS[0],
                        help="a shipped checkpoint (default %(default)s)")  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="DIR", help="images to compare on")
    parser.add_argument("--num-images", type=int, default=64, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.num_images < 1:
        parser.error("--num-images must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
