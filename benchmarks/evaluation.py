"""`python -m benchmarks.evaluation`: what evaluating costs beside the model, in time and memory."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.photos import write_photos
from benchmarks.result_files import write_result
from segvit.cli import parse_size
from segvit.config import VARIANTS, find_variant
from segvit.datasets.folder_evaluation import FolderEvaluation
from segvit.images import Size
from segvit.inference import Protocol, Scores, label_image
from segvit.metrics import ConfusionMatrix
from segvit.model import build_model
from segvit.prediction import predict_scores

PHOTO_SIZE: Size = (512, 683)  # the usual one of ADE20K
_EPILOG = """\
example:
  python -m benchmarks.evaluation --model vit_b_ade20k --images 4 --memory-size 1024x2048
"""


class Peak(NamedTuple):
    """Peak resident memory of a process in GB (10**9 bytes): with the model loaded, and after."""

    loaded_gb: float
    sliding_gb: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both."""
    arguments = _parse_arguments(argv)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "model": arguments.model,
        "photos": f"{arguments.images} JPEGs of {PHOTO_SIZE[0]}x{PHOTO_SIZE[1]}",
        "multi_scale": arguments.multi_scale,
        "overhead": measure_overhead(arguments.model, arguments.images, arguments.multi_scale),
    }
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        peak = fresh.submit(measure_peak, arguments.model, arguments.memory_size).result()
    size = f"{arguments.memory_size[0]}x{arguments.memory_size[1]}"
    result["memory"] = {"size": size, "classes": find_variant(arguments.model).num_classes}
    result["memory"] |= peak._asdict()
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else _format(result))
    return 0


def measure_overhead(name: str, count: int, multi_scale: bool = False) -> dict[str, float]:
    """Return the seconds of an evaluation on the CPU, of the model in it, and the rest's share.

    Everything counts but the model: reading, resizing, cutting, averaging, argmax, the matrix.

    Args:
        name: of the variant; its weights are random.
        count: images.
        multi_scale: six scales, each also mirrored; else one view.
    """
    config = find_variant(name)
    torch.manual_seed(0)
    model = build_model(config)
    in_model = 0.0

    def predict(images: NDArray[np.uint8]) -> Scores:
        nonlocal in_model
        started = time.perf_counter()
        scores = predict_scores(model, images)
        in_model += time.perf_counter() - started
        return scores

    side, stride = config.image_size, config.stride or config.image_size
    protocol = Protocol.published(
        (side, side), (stride, stride), config.short_side or side,
        multi_scale=multi_scale, flip=multi_scale,
    )  # fmt: skip
    predict(np.zeros((1, config.image_size, config.image_size, 3), np.uint8))  # warm-up
    with tempfile.TemporaryDirectory() as folder:
        data = write_photos(Path(folder), count, PHOTO_SIZE)
        # The masks have seven classes; the matrix is to be as large as the model's.
        data = replace(data, class_names=config.class_names, palette=config.palette)
        evaluation = FolderEvaluation(data, protocol, config.mean)
        matrix = ConfusionMatrix(config.num_classes)
        in_model, started = 0.0, time.perf_counter()
        for index in tqdm(range(count), unit="image", leave=False, disable=None):
            labelled = evaluation.label(predict, index)
            matrix.update(labelled.found, labelled.truth)
        seconds = time.perf_counter() - started
    share = (seconds - in_model) / seconds
    return {"seconds": seconds, "model_seconds": in_model, "overhead_share": share}


def measure_peak(name: str, size: Size) -> Peak:
    """Return this process's peak memory before and after sliding over one image.

    Args:
        name: of the variant; its weights are random.
        size: (height, width) of the image, which is not resized.
    """
    config = find_variant(name)
    model = build_model(config)
    loaded = _peak_gb()
    side, stride = config.image_size, config.stride or config.image_size
    protocol = Protocol(min(size), crop=(side, side), stride=(stride, stride))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    label_image(partial(predict_scores, model), image, protocol, config.mean)
    return Peak(loaded, _peak_gb())


def _peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _format(result: dict[str, Any]) -> str:
    overhead = result["overhead"]
    lines = [
        f"{result['model']}, {result['photos']}: {overhead['seconds']:.1f} s, "
        f"{overhead['overhead_share']:.1%} of it outside the model"
    ]
    memory = result["memory"]
    lines.append(
        f"sliding over {memory['size']}, {memory['classes']} classes: at most "
        f"{memory['sliding_gb']:.2f} GB, {memory['loaded_gb']:.2f} GB with the model just loaded"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description="Measure what an evaluation on the CPU costs beside the model: the share of "
        "its time, and the peak memory of sliding over one large image.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), default="vit_b_ade20k", metavar="NAME")
    parser.add_argument("--images", type=int, default=4, metavar="N")
    parser.add_argument("--multi-scale", action="store_true", help="six scales, mirrored too")
    parser.add_argument("--memory-size", type=parse_size, default=(1024, 2048), metavar="HxW")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.images < 1:
        parser.error("--images must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
