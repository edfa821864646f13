"""Segment images: class ids as `<stem>.labels.png`, a picture of them as `<stem>.overlay.png`.

An image of another size than the engine's is resized (linearly), its labels back (nearest). The
alpha channel is dropped, 16-bit channels are scaled to 8, EXIF orientation is applied.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.runtime import Runtime, infer_all, open_runtime
from engines.target import AUTO, Target
from segvit.atomic import make_folder
from segvit.cli import run_main
from segvit.images import (
    Image,
    Labels,
    class_shares,
    draw_overlay,
    find_images,
    read_image,
    resize_image,
    resize_labels,
    write_labels,
    write_png,
)

_EXAMPLE = """example:
  python -m engines.segment --artifact artifacts/vit_t_landcover-256x256-fp16 \\
      photo.jpg tiles/ 'more/*.png' --out segments
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the images that the arguments name; return the exit code."""
    arguments = _make_parser().parse_args(argv)
    paths = find_images(arguments.images)
    _check_stems(paths)
    out: Path = arguments.out
    make_folder(out)
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    with open_runtime(arguments.artifact, arguments.target, arguments.device) as runtime:
        say(f"segmenting {len(paths)} images on {runtime.target} into {out}")
        for note in runtime.notes if arguments.verbose else ():
            say(f"not used: {note}")
        started = time.perf_counter()
        results = []
        with tqdm(total=len(paths), unit="image", leave=False, disable=None) as bar:
            for result in _segment(runtime, paths, out, arguments):
                results.append(result)
                bar.update()
        seconds = time.perf_counter() - started
    if arguments.json:
        document = {"artifact": str(arguments.artifact), "target": runtime.target}
        print(json.dumps({**document, "seconds": round(seconds, 3), "images": results}, indent=2))
    else:
        say(f"wrote {2 * len(results)} files to {out} in {seconds:.1f} s")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engines.segment",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files, folders or quoted globs")
    add("--artifact", type=Path, required=True, metavar="DIR", help="made by export.build")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--target", choices=[AUTO, *Target], default=AUTO, help="default: the best that runs")
    add("--device", default="0", help="a GPU's number, or cpu, cuda:N, tensorrt:N for ort")
    add("--batch", type=int, metavar="N", help="images a call (default: the engine's typical)")
    add("--opacity", type=float, default=0.5, help="of the overlay's colours, 0 to 1 (default 0.5)")
    add("--json", action="store_true", help="print files and class shares as JSON")
    add("-v", "--verbose", action="store_true", help="tracebacks, and why a target was not used")
    return parser


def _segment(
    runtime: Runtime, paths: Sequence[Path], out: Path, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield, for each image in turn, what was written and the share of each class.

    Raises:
        ValueError: naming an image that cannot be read, or an argument out of range.
    """
    if not 0 <= arguments.opacity <= 1:
        raise ValueError(f"--opacity: expected 0 to 1, got {arguments.opacity}")
    smallest, typical, largest = runtime.batch
    count = typical if arguments.batch is None else arguments.batch
    if not smallest <= count <= largest:
        raise ValueError(f"--batch: the engine takes {smallest} to {largest} images, got {count}")
    for start in range(0, len(paths), count):
        part = paths[start : start + count]
        images = [read_image(path) for path in part]
        for path, image, labels in zip(part, images, _infer(runtime, images), strict=True):
            yield _write(runtime, path, image, labels, out, arguments.opacity)


def _infer(runtime: Runtime, images: Sequence[Image]) -> list[Labels]:
    """Return class ids of images of any size, at their size."""
    height, width = (int(size) for size in runtime.input.shape[1:3])
    resized = [resize_image(image, (height, width)) for image in images]
    output = infer_all(runtime, np.stack(resized))
    labels = output if output.ndim == 3 else output.argmax(axis=1)
    return [resize_labels(one, image.shape[:2]) for one, image in zip(labels, images, strict=True)]


def _write(
    runtime: Runtime, path: Path, image: Image, labels: Labels, out: Path, opacity: float
) -> dict[str, Any]:
    classes = runtime.classes
    files = {kind: out / f"{path.stem}.{kind}.png" for kind in ("labels", "overlay")}
    overlay = draw_overlay(image, labels, classes, runtime.palette, opacity)
    write_labels(files["labels"], labels, len(classes))
    write_png(files["overlay"], overlay)
    shares = class_shares(labels, len(classes))
    present = {name: round(float(s), 6) for name, s in zip(classes, shares, strict=True) if s > 0}
    return {"image": str(path), **{kind: str(file) for kind, file in files.items()},
            "shares": present}  # fmt: skip


def _check_stems(paths: Sequence[Path]) -> None:
    """Refuse two images whose results would have the same name."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"images '{other}' and '{path}' would both be written as '{path.stem}.labels.png'; "
                "rename one, or segment them into different --out folders"
            )


if __name__ == "__main__":
    run_main(main)
