"""From image files to label files: what the engine's latency leaves out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Infer
from benchmarks.timing import Clock, Samples, Schedule, measure_rounds, summarise
from engines.arrays import Images
from segvit.images import (
    Size,
    find_images,
    read_image,
    resize_image,
    resize_labels,
    write_labels,
    write_png,
)

STAGES = ("decode", "resize", "infer", "resize labels", "write")


def measure_end_to_end(
    engines: Mapping[str, Infer],
    files: Sequence[Path],
    size: Size,
    num_classes: int,
    schedule: Schedule,
    progress: bool = True,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Return the latency of each engine from files to files, whole and by stage.

    Args:
        engines: uint8 images `(B, H, W, 3)` to labels `(B, H, W)`, by name.
        files: the images of one call, of any size.
        size: (height, width) of the engines' input.
        num_classes: decides the bits of the labels' PNG.
        schedule: for how long; the engines take turns.
        progress: show a bar.
        clock: what tells the time, in seconds.
    """
    stages = {name: {stage: list[float]() for stage in STAGES} for name in engines}
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            name: partial(_label_files, infer, files, size, num_classes, Path(folder),
                          stages[name], clock)
            for name, infer in engines.items()
        }  # fmt: skip
        whole = measure_rounds(calls, schedule, progress, clock)
    report = {}
    for name, samples in whole.items():
        timed = {stage: values[-len(samples) :] for stage, values in stages[name].items()}
        report[name] = {
            "whole": asdict(summarise(samples)),
            "stages_p50_ms": {stage: summarise(values).p50_ms for stage, values in timed.items()},
        }
    return report


def choose_files(paths: Sequence[Path], images: Images, stack: ExitStack) -> list[Path]:
    """Return as many image files as there are images: those given, or the images as PNG.

    Raises:
        FileNotFoundError: if a path names nothing.
        ValueError: if a folder or pattern holds no image.
    """
    if paths:
        found = find_images(paths)
        return [found[index % len(found)] for index in range(len(images))]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(files, images, strict=True):
        write_png(path, image)
    return files


def _label_files(
    infer: Infer,
    files: Sequence[Path],
    size: Size,
    num_classes: int,
    folder: Path,
    stages: Samples,
    clock: Clock,
) -> None:
    def take(stage: str, work: Callable[[], Any]) -> Any:
        started = clock()
        result = work()
        stages[stage].append((clock() - started) * 1e3)
        return result

    images = take("decode", lambda: [read_image(path) for path in files])
    sizes = [image.shape[:2] for image in images]
    batch = take("resize", lambda: np.stack([resize_image(image, size) for image in images]))
    labels = take("infer", lambda: infer(batch))
    resized = take(
        "resize labels",
        lambda: [resize_labels(one, shape) for one, shape in zip(labels, sizes, strict=True)],
    )

    def write() -> None:
        for index, one in enumerate(resized):
            write_labels(folder / f"{index}.png", one, num_classes)

    take("write", write)
