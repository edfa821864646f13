"""Segment a video file or a camera: decoding, computing and drawing overlap.

A thread decodes and resizes frames, the runtime computes batches of them while the next are
fetched, and this thread draws what is done. No frame is lost unless `--drop` says that the newest
matter more, as with a camera that is faster than the engine.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from engines.runtime import Runtime, open_runtime
from engines.target import AUTO, Target
from export.manifest_file import digest_argument
from segvit.atomic import make_folder
from segvit.images import Image, Labels, resize_image, resize_labels

_EXAMPLE = """example:
  python examples/segment_video.py --artifact artifacts/mine clip.mp4 --out overlay.mp4
"""
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_DEFAULT_FPS = 25.0  # of the written video, where the source does not say


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the frames and print how many a second; return the exit code."""
    arguments = _parse_arguments(argv)
    with (
        open_source(arguments.source) as capture,
        open_runtime(
            arguments.artifact,
            arguments.target,
            arguments.device,
            instances=arguments.instances,
            digest=arguments.digest,
        ) as runtime,
    ):
        if runtime.output.name != "labels":
            raise ValueError(f"'{arguments.artifact}' gives {runtime.output.name}, not labels")
        batch = _choose_batch(runtime, arguments.batch)
        frames = FrameReader(capture, runtime, 2 * batch, arguments.frames, arguments.drop)
        runtime.warm_up()
        started = time.perf_counter()
        with open_writer(arguments.out, capture) as writer, frames:
            count = _segment(runtime, frames, batch, writer)
        seconds = time.perf_counter() - started
    if count == 0:
        raise ValueError(f"video '{arguments.source}' has no frames that OpenCV can decode")
    print(
        f"{count} frames in {seconds:.2f} s: {count / seconds:.1f} frames/s on {runtime.target}, "
        f"{batch} a call; {frames.dropped} dropped"
    )
    if arguments.out:
        print(f"wrote {arguments.out}")
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="a video file, or a camera's number")
    add("--artifact", type=Path, required=True, metavar="DIR", help="made by export.build")
    add("--digest", type=digest_argument, metavar="SHA256",
        help="refuse any artifact but that of this digest, which builds print")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="an overlay as .mp4 or .avi (default: none)")
    add("--frames", type=int, metavar="N", help="read that many (default: all)")
    add("--batch", type=int, metavar="N", help="frames a call (default: the engine's typical)")
    add("--drop", action="store_true", help="drop the oldest frame when the engine falls behind")
    add("--target", choices=[AUTO, *Target], default=AUTO, help="default: the best that runs")
    add("--device", default="0", help="a GPU's number, or cpu, cuda:N, tensorrt:N for ort")
    add("--instances", type=int, default=1, metavar="N", help="calls at once (default 1)")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.frames is not None and arguments.frames < 1:
        parser.error(f"--frames: expected at least 1, got {arguments.frames}")
    if arguments.out is not None and arguments.out.suffix not in _CODECS:
        parser.error(f"--out: expected a name in {' or '.join(_CODECS)}, got '{arguments.out}'")
    return arguments


@contextmanager
def open_source(name: str) -> Iterator[cv2.VideoCapture]:
    """Yield the capture of a file, or of a camera where the name is a number.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if OpenCV cannot read it.
    """
    is_camera = name.isdecimal()
    if not is_camera and not Path(name).is_file():
        raise FileNotFoundError(2, "no such video", name)
    capture = cv2.VideoCapture(int(name) if is_camera else name)
    try:
        if not capture.isOpened():
            subject = f"camera {name}" if is_camera else f"video '{name}'"
            raise ValueError(f"{subject} cannot be opened by OpenCV")
        yield capture
    finally:
        capture.release()


@dataclass
class FrameReader:
    """A thread that decodes frames ahead, at most `ahead` of them; a context manager.

    `dropped` counts what `drop` left out.
    """

    capture: cv2.VideoCapture
    runtime: Runtime
    ahead: int
    limit: int | None
    drop: bool
    dropped: int = 0
    _queue: queue.Queue[tuple[Image, Image] | None] = field(init=False)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> FrameReader:
        self._queue = queue.Queue(self.ahead)
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(self._read)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def __iter__(self) -> Iterator[tuple[Image, Image]]:
        """Yield each frame as decoded, BGR `(H, W, 3)`, and as the engine takes it, RGB."""
        while (pair := self._queue.get()) is not None:
            yield pair
        self._done.result()

    def _read(self) -> None:
        height, width = map(int, self.runtime.input.shape[1:3])
        try:
            for _ in iter(int, 1) if self.limit is None else range(self.limit):
                is_read, frame = self.capture.read()
                if not is_read or self._stopped.is_set():
                    break
                small = resize_image(np.asarray(frame, np.uint8), (height, width))
                resized = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
                if self.drop and self._queue.full():
                    with suppress(queue.Empty):
                        self._queue.get_nowait()
                        self.dropped += 1
                self._put((frame, resized))
        finally:
            self._put(None)

    def _put(self, pair: tuple[Any, Any] | None) -> None:
        """Wait for a place; a reader that is stopped waits no more."""
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(pair, timeout=0.1)
                break


@contextmanager
def open_writer(path: Path | None, capture: cv2.VideoCapture) -> Iterator[cv2.VideoWriter | None]:
    """Yield what takes the frames of a video; the file appears when all are written.

    Raises:
        ValueError: if OpenCV cannot write such a file.
    """
    if path is None:
        yield None
        return
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    size = [int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    codec = cv2.VideoWriter.fourcc(*_CODECS[path.suffix])
    writer = cv2.VideoWriter(
        str(temporary), codec, capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_FPS, size
    )
    try:
        if not writer.isOpened():
            raise ValueError(f"video '{path}' cannot be written by OpenCV; try .avi")
        yield writer
        writer.release()
        temporary.replace(path)
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)


def _choose_batch(runtime: Runtime, asked: int | None) -> int:
    smallest, typical, largest = runtime.batch
    if asked is not None and not smallest <= asked <= largest:
        raise ValueError(f"--batch: the engine takes {smallest} to {largest} images, got {asked}")
    return asked or typical


def _segment(
    runtime: Runtime, frames: FrameReader, batch: int, writer: cv2.VideoWriter | None
) -> int:
    """Draw the frames as their labels come; return how many."""
    waiting: deque[list[Image]] = deque()  # as decoded, by batch
    count = 0
    with tqdm(total=frames.limit, unit="frame", leave=False, disable=None) as bar:
        for labels in runtime.stream(_gather(frames, batch, runtime.batch[0], waiting)):
            # A last batch may have been filled up: labels without a frame are dropped.
            for frame, found in zip(waiting.popleft(), labels, strict=False):
                if writer is not None:
                    writer.write(draw(frame, found, runtime.palette))
                count += 1
                bar.update()
    return count


def _gather(
    frames: FrameReader, batch: int, smallest: int, waiting: deque[list[Image]]
) -> Iterator[Image]:
    """Yield batches `(B, h, w, 3)`; the last one is filled up to the engine's smallest."""
    originals: list[Image] = []
    resized: list[Image] = []
    for frame, small in frames:
        originals.append(frame)
        resized.append(small)
        if len(resized) == batch:
            waiting.append(originals)
            yield np.stack(resized)
            originals, resized = [], []
    if resized:
        waiting.append(originals)
        yield np.stack(resized + resized[-1:] * (smallest - len(resized)))


def draw(frame: Image, labels: Labels, palette: Sequence[tuple[int, int, int]]) -> Image:
    """Return a BGR frame with its classes in colour."""
    labels = resize_labels(labels, frame.shape[:2])
    colours = np.array(palette, np.uint8)[:, ::-1][labels]
    return np.asarray(cv2.addWeighted(frame, 0.5, colours, 0.5, 0), np.uint8)


if __name__ == "__main__":
    run_main(main)
