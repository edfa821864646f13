"""`python -m segvit.evaluate`: mIoU of a checkpoint, beside what colour alone reaches."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segvit.atomic import write_bytes
from segvit.checkpoint import load_checkpoint
from segvit.cli import run_main
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import evaluate_landcover
from segvit.metrics import SegmentationMetrics
from segvit.model import SegViT
from segvit.prediction import predict_scores
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

_EPILOG = """\
example:
  python -m segvit.evaluate --model vit_t_landcover --dataset landcover --split test
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate one checkpoint."""
    arguments = _parse_arguments(argv)
    path = arguments.checkpoint or shipped_checkpoint(arguments.model)
    model = load_checkpoint(path)
    _check_model(model, path)
    data = LandCover()
    started = time.perf_counter()
    device_model = model.to(arguments.device)
    matrix = evaluate_landcover(
        lambda images: predict_scores(device_model, images),
        data,
        arguments.split,
        arguments.batch_size,
        progress=not arguments.json,
    )
    report = _make_report(
        path, arguments.split, matrix.compute(), data.colour_floor(arguments.split)
    )
    report["pixels"] = int(matrix.counts.sum())
    report["seconds"] = round(time.perf_counter() - started, 1)
    text = json.dumps(report, indent=2)
    if arguments.out:
        write_bytes(arguments.out, f"{text}\n".encode())
    print(text if arguments.json else _format_table(report))
    return 0


def _check_model(model: SegViT, path: Path) -> None:
    names = tuple(name for name, _ in LANDCOVER_CLASSES)
    if model.config.num_classes != len(names):
        raise ValueError(
            f"checkpoint '{path}' has {model.config.num_classes} classes, land cover has "
            f"{len(names)}; give a checkpoint trained with --dataset landcover"
        )
    provenance = model.provenance
    if provenance is not None and provenance.random_parts:
        raise ValueError(f"checkpoint '{path}' has no decode head; train it first")


def _make_report(
    path: Path, split: str, found: SegmentationMetrics, floor: SegmentationMetrics
) -> dict[str, Any]:
    names = [name for name, _ in LANDCOVER_CLASSES]
    return {
        "checkpoint": path.name,
        "dataset": "landcover",
        "split": split,
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "colour_floor_miou": floor.miou,
        "colour_floor_pixel_accuracy": floor.pixel_accuracy,
        "above_floor": found.miou - floor.miou,
        "iou": dict(zip(names, found.iou.tolist(), strict=True)),
        "colour_floor_iou": dict(zip(names, floor.iou.tolist(), strict=True)),
    }


def _format_table(report: dict[str, Any]) -> str:
    """Return the report as text, a line a class."""
    rows = [(name, iou, report["colour_floor_iou"][name]) for name, iou in report["iou"].items()]
    rows.append(("mIoU", report["miou"], report["colour_floor_miou"]))
    rows.append(("aAcc", report["pixel_accuracy"], report["colour_floor_pixel_accuracy"]))
    lines = [f"{'':20}{'model':>8}{'colour':>8}"]
    lines += [f"{name:20}{value:8.4f}{floor:8.4f}" for name, value, floor in rows]
    lines.append(f"{'mAcc':20}{report['mean_accuracy']:8.4f}")
    lines.append(
        f"{report['checkpoint']} on land cover {report['split']}: {report['pixels']} pixels, "
        f"{report['above_floor']:+.4f} mIoU against the colour look-up, {report['seconds']} s"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m segvit.evaluate",
        description="Measure a checkpoint's mIoU, beside a colour look-up table on the same "
        "pixels.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE")
    source.add_argument("--model", choices=SHIPPED_MODELS, default=SHIPPED_MODELS[0],
                        help="a shipped checkpoint (default %(default)s)")  # fmt: skip
    parser.add_argument("--dataset", choices=("landcover",), default="landcover")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
