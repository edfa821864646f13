"""Segment images: class ids as `<stem>.labels.png`, a picture of them as `<stem>.overlay.png`.

An image of another size than the engine's is resized (linearly), its labels back (nearest). The
alpha channel is dropped, 16-bit channels are scaled to 8, EXIF orientation is applied. Images are
read while others are computed. `--self-test` needs no images: it compares the engine's labels with
those that the artifact has of PyTorch, and fails below the gate of its precision.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.arrays import Images
from engines.runtime import Runtime, open_runtime
from engines.self_test import check_self_test, read_golden, run_self_test
from engines.target import AUTO, Target
from export.manifest import Manifest
from export.manifest_file import digest_argument
from segvit.atomic import make_folder
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

Report = Callable[[str], None]
_EXAMPLE = """example:
  python -m engines.segment --artifact artifacts/vit_t_landcover-256x256-fp16 \\
      photo.jpg tiles/ 'more/*.png' --out segments
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the images that the arguments name, or test the engine; return the exit code."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    if arguments.self_test and (arguments.images or arguments.out):
        parser.error("--self-test takes neither IMAGE nor --out")
    if not arguments.self_test and not (arguments.images and arguments.out):
        parser.error("IMAGE and --out are required, or --self-test")
    paths = find_images(arguments.images)
    _check_stems(paths)
    if arguments.out:
        make_folder(arguments.out)
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.rebuild:
        from engines.rebuild import fit_artifact  # needs onnx, which a deploy host may lack

        fit_artifact(arguments.artifact, arguments.target, arguments.device, say, progress=True,
                     digest=arguments.digest)  # fmt: skip
    with open_runtime(
        arguments.artifact, arguments.target, arguments.device, digest=arguments.digest
    ) as runtime:
        for note in runtime.notes if arguments.verbose else ():
            say(f"note: {note}")
        if arguments.self_test:
            return _test(runtime, arguments, say)
        return _segment_all(runtime, paths, arguments, say)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engines.segment",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="image files, folders or quoted globs")
    add("--artifact", type=Path, required=True, metavar="DIR", help="made by export.build")
    add("--digest", type=digest_argument, metavar="SHA256",
        help="refuse any artifact but that of this digest, which builds print")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder for the results")
    add("--self-test", action="store_true", help="compare golden.npz, segment nothing")
    add("--rebuild", action="store_true",
        help="first build an engine that the artifact lacks for this GPU or version")  # fmt: skip
    add("--target", choices=[AUTO, *Target], default=AUTO, help="default: the best that runs")
    add("--device", default="0", help="a GPU's number, or cpu, cuda:N, tensorrt:N for ort")
    add("--batch", type=int, metavar="N", help="images a call (default: the engine's typical)")
    add("--opacity", type=float, default=0.5, help="of the overlay's colours, 0 to 1 (default 0.5)")
    add("--json", action="store_true", help="print files and class shares as JSON")
    add("-v", "--verbose", action="store_true", help="tracebacks, and why a target was not used")
    return parser


def _test(runtime: Runtime, arguments: argparse.Namespace, say: Report) -> int:
    """Print how many labels are the reference's; return 0 or raise `ParityError`."""
    manifest = Manifest.read(arguments.artifact, arguments.digest)
    golden = read_golden(arguments.artifact, manifest)
    say(f"testing {manifest.precision} on {runtime.target} with {len(golden.images)} images")
    result = run_self_test(runtime, golden, manifest, progress=sys.stderr.isatty())
    if arguments.json:
        print(json.dumps({"artifact": str(arguments.artifact), **asdict(result)}, indent=2))
    else:
        for index, agreement in enumerate(result.images):
            say(f"image {index}: {agreement:.5f} of labels equal")
        gate = "random weights: labels are near-ties, nothing is gated"
        if result.gate is not None:
            gate = f"the gate of {result.precision} is {result.gate}"
        say(f"all: {result.agreement:.5f} of labels equal; {gate}")
    check_self_test(result)
    return 0


def _segment_all(
    runtime: Runtime, paths: Sequence[Path], arguments: argparse.Namespace, say: Report
) -> int:
    say(f"segmenting {len(paths)} images on {runtime.target} into {arguments.out}")
    started = time.perf_counter()
    results = []
    with tqdm(total=len(paths), unit="image", leave=False, disable=None) as bar:
        for result in _segment(runtime, paths, arguments):
            results.append(result)
            bar.update()
    seconds = time.perf_counter() - started
    if arguments.json:
        document = {"artifact": str(arguments.artifact), "target": runtime.target}
        print(json.dumps({**document, "seconds": round(seconds, 3), "images": results}, indent=2))
    else:
        say(f"wrote {2 * len(results)} files to {arguments.out} in {seconds:.1f} s")
    return 0


def _segment(
    runtime: Runtime, paths: Sequence[Path], arguments: argparse.Namespace
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
    read: deque[tuple[Path, Image]] = deque()  # those whose labels are still to come
    for output in runtime.stream(_read_batches(runtime, paths, count, read)):
        labels = output if output.ndim == 3 else output.argmax(axis=1)
        for one in labels[: len(read)]:
            path, image = read.popleft()
            height, width = image.shape[:2]
            resized = resize_labels(one, (height, width))
            yield _write(runtime, path, image, resized, arguments.out, arguments.opacity)


def _read_batches(
    runtime: Runtime, paths: Sequence[Path], count: int, read: deque[tuple[Path, Image]]
) -> Iterator[Images]:
    """Yield images at the engine's size, `count` at once, and append them as they were to `read`.

    A last batch too small for the engine is filled up with copies.
    """
    height, width = (int(size) for size in runtime.input.shape[1:3])
    for start in range(0, len(paths), count):
        part = paths[start : start + count]
        images = [read_image(path) for path in part]
        read.extend(zip(part, images, strict=True))
        resized = [resize_image(image, (height, width)) for image in images]
        resized += resized[-1:] * (runtime.batch[0] - len(resized))
        yield np.stack(resized)


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
