"""`python -m benchmarks.input_pipeline`: training images a second beside read + resize alone."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.photos import write_photos
from benchmarks.result_files import write_result
from segvit.cli import parse_size
from segvit.config import find_variant
from segvit.datasets.folder import FolderDataset
from segvit.datasets.training_data import FolderTraining, iterate_batches
from segvit.datasets.transforms import RATIOS, fit_size, resize_pair
from segvit.images import read_image, resize_image
from segvit.inference import LONGEST_SIDE, rescale_size

MODEL = "vit_b_ade20k"  # its crop of 512 px
_EPILOG = """\
example:
  python -m benchmarks.input_pipeline --workers 2 --photo-size 512x683
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both in turns."""
    arguments = _parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder), arguments.photos, arguments.photo_size)
        batch_size = arguments.batch_size
        candidates: dict[str, Callable[[], int]] = {
            "images alone to the crop's short side, one process": partial(
                _read_images, photos, arguments.images
            ),
            "images and masks to the sizes of training, one process": partial(
                _read_pairs, photos, arguments.images
            ),
            f"training batches, {arguments.workers} workers": partial(
                _draw_batches, photos, arguments.images // batch_size, batch_size, arguments.workers
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in tqdm(range(arguments.rounds), unit="round", disable=arguments.json, leave=False):
            for name, read in candidates.items():
                started = time.perf_counter()
                rates[name].append(read() / (time.perf_counter() - started))
    *plain, pipeline = (statistics.median(values) for values in rates.values())
    size = f"{arguments.photo_size[0]}x{arguments.photo_size[1]}"
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "photos": f"{arguments.photos} JPEGs of {size}, crops of {_crop()}",
        "rounds": arguments.rounds,
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratios": dict(zip(rates, (pipeline / rate for rate in plain), strict=False)),
    }
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else _format(result))
    return 0


def _crop() -> int:
    return find_variant(MODEL).image_size


def _read_images(photos: FolderDataset, count: int) -> int:
    """Read images and resize their short side to the crop, nothing else; return how many."""
    with _one_thread():
        for index in range(count):
            image = read_image(photos.samples[index % len(photos)].image)
            resize_image(image, rescale_size((image.shape[0], image.shape[1]), _crop()))
    return count


def _read_pairs(photos: FolderDataset, count: int) -> int:
    """Read images and masks, resize both to random sizes as training does; return how many."""
    rng = np.random.default_rng(0)
    with _one_thread():
        for index in range(count):
            image, mask = photos.read(photos.samples[index % len(photos)])
            scale = float(rng.uniform(*RATIOS))
            resize_pair(image, mask, fit_size(mask.shape, (LONGEST_SIDE, _crop()), scale))
    return count


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _draw_batches(photos: FolderDataset, steps: int, batch_size: int, workers: int) -> int:
    """Read images and masks, augment and stack them, as training does; return how many."""
    data = FolderTraining(find_variant(MODEL), photos, photos, batch_size, seed=0)
    for _ in iterate_batches(data, range(steps), range(batch_size), workers):
        pass
    return steps * batch_size


def _format(result: dict[str, Any]) -> str:
    lines = [f"{result['photos']}, median of {result['rounds']} rounds"]
    for name, rate in result["images_per_second"].items():
        ratio = result["ratios"].get(name)
        shown = "" if ratio is None else f", the training batches' is {ratio:.2f} of it"
        lines.append(f"{name}: {rate:.1f} images/s{shown}")
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input_pipeline",
        description="Measure how many images a second the training input pipeline reads, resizes, "
        "crops, distorts and stacks, worker processes' start included, beside a loop in one "
        "process that only reads and resizes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=1024, metavar="N", help="images a round")
    parser.add_argument("--photos", type=int, default=24, metavar="N", help="different ones")
    parser.add_argument("--photo-size", type=parse_size, default=(512, 683), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    for name in ("batch_size", "photos", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.workers < 0:
        parser.error("--workers must be at least 0")
    if arguments.images < arguments.batch_size:
        parser.error("--images must be at least --batch-size")
    return arguments


if __name__ == "__main__":
    run_main(main)
