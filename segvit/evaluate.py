"""`python -m segvit.evaluate`: mIoU of a checkpoint on land cover, or on anyone's masks.

On land cover it stands beside what colour alone reaches on the same pixels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from segvit.atomic import write_bytes
from segvit.checkpoint import load_checkpoint
from segvit.cli import run_main
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.folder import open_folder
from segvit.datasets.folder_evaluation import evaluate_folder
from segvit.datasets.landcover import LandCover
from segvit.datasets.landcover_evaluation import evaluate_landcover
from segvit.inference import MULTI_SCALES, Protocol
from segvit.metrics import SegmentationMetrics
from segvit.model import SegViT
from segvit.prediction import predict_scores
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

_FOLDER_OPTIONS = ("images", "masks", "classes", "reduce_zero_label", "mode", "multi_scale", "flip")
_EPILOG = """\
example:
  python -m segvit.evaluate --model vit_t_landcover --dataset landcover --split test
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate one checkpoint."""
    arguments = _parse_arguments(argv)
    path = arguments.checkpoint or shipped_checkpoint(arguments.model)
    model = load_checkpoint(path)
    if model.provenance is not None and model.provenance.random_parts:
        raise ValueError(f"checkpoint '{path}' has no decode head; train it first")
    model = model.to(arguments.device)
    started = time.perf_counter()
    evaluate = _evaluate_folder if arguments.dataset == "folder" else _evaluate_landcover
    report = {"checkpoint": path.name, "dataset": arguments.dataset, **evaluate(arguments, model)}
    report["seconds"] = round(time.perf_counter() - started, 1)
    text = json.dumps(report, indent=2)
    if arguments.out:
        write_bytes(arguments.out, f"{text}\n".encode())
    print(text if arguments.json else _format_table(report))
    return 0


def _evaluate_landcover(arguments: argparse.Namespace, model: SegViT) -> dict[str, Any]:
    """Return the report of a land-cover split, with the colour floor."""
    names = tuple(name for name, _ in LANDCOVER_CLASSES)
    _check_classes(model, names, "land cover")
    data = LandCover()
    matrix = evaluate_landcover(
        partial(predict_scores, model), data, arguments.split, arguments.batch_size,
        progress=not arguments.json,
    )  # fmt: skip
    found, floor = matrix.compute(), data.colour_floor(arguments.split)
    return {
        "split": arguments.split,
        **_describe(found, names),
        "colour_floor_miou": floor.miou,
        "colour_floor_pixel_accuracy": floor.pixel_accuracy,
        "above_floor": found.miou - floor.miou,
        "colour_floor_iou": dict(zip(names, floor.iou.tolist(), strict=True)),
        "pixels": int(matrix.counts.sum()),
    }


def _evaluate_folder(arguments: argparse.Namespace, model: SegViT) -> dict[str, Any]:
    """Return the report of a folder of images and masks, by the published protocol."""
    config = model.config
    data = open_folder(
        arguments.images, arguments.masks, arguments.classes, arguments.reduce_zero_label
    )
    _check_classes(model, data.class_names, f"'{arguments.classes}'")
    protocol = Protocol.published(
        config, arguments.mode == "slide", arguments.multi_scale, arguments.flip,
        arguments.batch_size,
    )  # fmt: skip
    matrix = evaluate_folder(
        partial(predict_scores, model), data, protocol, config.mean, progress=not arguments.json
    )
    return {
        "images": len(data),
        "mode": arguments.mode,
        "scales": list(protocol.scales),
        "flip": protocol.flip,
        **_describe(matrix.compute(), data.class_names),
        "pixels": int(matrix.counts.sum()),
    }


def _check_classes(model: SegViT, names: Sequence[str], source: str) -> None:
    if model.config.num_classes != len(names):
        path = model.provenance.source if model.provenance else model.config.name
        raise ValueError(
            f"checkpoint '{path}' has {model.config.num_classes} classes, {source} has "
            f"{len(names)}; give a checkpoint trained on these classes"
        )


def _describe(found: SegmentationMetrics, names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics by name; None for a class that is in no mask and no prediction."""
    iou = [None if isnan(value) else value for value in found.iou.tolist()]
    return {
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "iou": dict(zip(names, iou, strict=True)),
    }


def _format_table(report: dict[str, Any]) -> str:
    """Return the report as text, a line a class."""
    rows = [*report["iou"].items(), ("mIoU", report["miou"]), ("aAcc", report["pixel_accuracy"])]
    floors = {
        **report.get("colour_floor_iou", {}),
        "mIoU": report.get("colour_floor_miou"),
        "aAcc": report.get("colour_floor_pixel_accuracy"),
    }
    width = max(20, *(len(name) + 1 for name in report["iou"]))
    with_floor = "above_floor" in report
    lines = [f"{'':{width}}{'model':>8}" + (f"{'colour':>8}" if with_floor else "")]
    for name, value in (*rows, ("mAcc", report["mean_accuracy"])):
        shown = f"{name:{width}}{'absent' if value is None else format(value, '.4f'):>8}"
        floor = floors.get(name)
        lines.append(shown if floor is None else f"{shown}{floor:8.4f}")
    if with_floor:
        where = f"land cover {report['split']}"
        ending = f"{report['above_floor']:+.4f} mIoU against the colour look-up"
    else:
        views = len(report["scales"]) * (1 + report["flip"])
        where = f"{report['images']} images"
        ending = f"{report['mode']}, {views} view{'s' if views > 1 else ''} an image"
    lines.append(
        f"{report['checkpoint']} on {where}: {report['pixels']} pixels, {ending}, "
        f"{report['seconds']} s"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m segvit.evaluate",
        description="Measure a checkpoint's mIoU: on land cover beside a colour look-up table on "
        "the same pixels, or on a folder of images and masks by the published protocol.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE")
    source.add_argument("--model", choices=SHIPPED_MODELS, default=SHIPPED_MODELS[0],
                        help="a shipped checkpoint (default %(default)s)")  # fmt: skip
    parser.add_argument("--dataset", choices=("landcover", "folder"), default="landcover")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="of land cover")
    _add_folder_options(parser.add_argument_group("with --dataset folder"))
    parser.add_argument("--batch-size", type=int, default=16, help="crops a call (default 16)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    named = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in _FOLDER_OPTIONS}
    if arguments.dataset == "folder":
        missing = [name for name in ("--images", "--masks", "--classes") if named[name] is None]
        if missing:
            parser.error(f"--dataset folder needs {', '.join(missing)}")
        arguments.mode = arguments.mode or "slide"
    elif given := [name for name, value in named.items() if value]:
        parser.error(f"{', '.join(given)}: only with --dataset folder")
    return arguments


def _add_folder_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--images", type=Path, metavar="DIR", help="images")
    add("--masks", type=Path, metavar="DIR", help="grey PNGs of class ids, named as the images")
    add("--classes", type=Path, metavar="FILE", help="a class a line: name, or name,red,green,blue")
    add("--reduce-zero-label", action="store_true", help="0 in the masks means ignored")
    add(
        "--mode", choices=("whole", "slide"), help="default slide, with the model's crop and stride"
    )
    add("--multi-scale", action="store_true", help=f"average scales {MULTI_SCALES}")
    add("--flip", action="store_true", help="average with the mirrored image")


if __name__ == "__main__":
    run_main(main)
