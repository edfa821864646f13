"""An HTTP service: an image in, its labels, an overlay or class shares out.

Requests that come within a few milliseconds of each other share one call of the engine. Beyond
`--max-pending` requests at once the service answers 503 rather than let everyone wait.
"""

from segvit_deploy import run_main

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# Read when OpenCV is loaded: a small file may claim to be a huge image.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(50_000_000))

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.runtime import Runtime, open_runtime
from engines.target import AUTO, Target
from export.manifest_file import digest_argument
from segvit.images import (
    Image,
    Labels,
    UnreadableError,
    class_shares,
    decode_pixels,
    draw_overlay,
    resize_image,
    resize_labels,
)

_EXAMPLE = """example:
  python examples/serve_fastapi.py --artifact artifacts/mine --port 8000
  curl -F image=@photo.jpg 'http://127.0.0.1:8000/segment?format=overlay' --output overlay.png
"""
_OCTETS = "application/octet-stream"  # what a client says that does not know
_SHUTDOWN_S = 30
Format = Literal["labels", "overlay", "json"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted or terminated, then answer what was begun; return the exit code."""
    arguments = _parse_arguments(argv)
    with open_runtime(
        arguments.artifact,
        arguments.target,
        arguments.device,
        instances=arguments.instances,
        digest=arguments.digest,
    ) as runtime:
        batcher = Batcher(runtime, arguments.max_delay_ms / 1000, arguments.max_pending)
        app = create_app(batcher, arguments.max_upload_mib * 2**20)
        with suppress(KeyboardInterrupt):  # which uvicorn raises once all is answered
            uvicorn.run(
                app,
                host=arguments.host,
                port=arguments.port,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="made by export.build")
    add("--digest", type=digest_argument, metavar="SHA256",
        help="refuse any artifact but that of this digest, which builds print")  # fmt: skip
    add("--host", default="127.0.0.1", help="to listen on (default: this machine alone)")
    add("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    add("--target", choices=[AUTO, *Target], default=AUTO, help="default: the best that runs")
    add("--device", default="0", help="a GPU's number, or cpu, cuda:N, tensorrt:N for ort")
    add("--instances", type=int, default=1, metavar="N", help="calls at once (default 1)")
    add("--max-delay-ms", type=float, default=5.0, metavar="MS",
        help="how long a request may wait for others (default 5)")  # fmt: skip
    add("--max-pending", type=int, default=64, metavar="N", help="requests at once (default 64)")
    add("--max-upload-mib", type=int, default=32, metavar="MIB", help="of a request (default 32)")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


@dataclass
class Batcher:
    """Puts images of several requests into one call of the engine.

    Args:
        runtime: with labels as its output.
        max_delay_s: how long the first image of a call waits for others, in seconds.
        max_pending: requests that may be anywhere between arrival and answer.

    Raises:
        ValueError: if the engine gives no labels.
    """

    runtime: Runtime
    max_delay_s: float
    max_pending: int
    pending: int = 0
    images: int = 0
    calls: int = 0
    _queue: asyncio.Queue[tuple[Image, asyncio.Future[Labels]]] = field(
        default_factory=asyncio.Queue
    )

    def __post_init__(self) -> None:
        name = self.runtime.output.name
        if name != "labels":
            raise ValueError(f"the artifact gives {name}; build it with --output labels")
        self._slots = asyncio.Semaphore(self.runtime.instances)
        self._running: set[asyncio.Task[None]] = set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            HTTPException: 503, if there are too many.
        """
        if self.pending >= self.max_pending:
            detail = f"{self.pending} requests are waiting already; try again"
            raise HTTPException(503, detail, {"Retry-After": "1"})
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    async def infer(self, image: Image) -> Labels:
        """Return the labels `(h, w)` of an image of the engine's size, `(h, w, 3)`."""
        future = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((image, future))
        labels: Labels = await future
        return labels

    async def run(self) -> None:
        """Make calls until cancelled; while all instances are busy, the next batch gathers."""
        loop, largest = asyncio.get_running_loop(), self.runtime.batch[2]
        while True:
            batch = [await self._queue.get()]
            deadline = loop.time() + self.max_delay_s
            await self._slots.acquire()
            while len(batch) < largest and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while len(batch) < largest:
                        batch.append(await self._queue.get())
            task = asyncio.create_task(self._call(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _call(self, batch: Sequence[tuple[Image, asyncio.Future[Labels]]]) -> None:
        """Run one batch, filled up to the engine's smallest, and answer each request."""
        images = [image for image, _ in batch]
        images += images[-1:] * (self.runtime.batch[0] - len(images))
        self.calls, self.images = self.calls + 1, self.images + len(batch)
        try:
            outputs = await asyncio.wrap_future(self.runtime.infer_async(np.stack(images)))
            for (_, future), labels in zip(batch, outputs, strict=False):
                if not future.done():
                    future.set_result(labels)
        except Exception as error:  # whatever it is, each request of the batch has to learn it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._slots.release()


class LimitUpload:
    """ASGI middleware that stops reading a request above so many bytes: 413."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body's bytes as the application asks for them."""
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"the request is above {self._max_bytes >> 20} MiB")
            return message

        await self._app(scope, count, send)


def create_app(batcher: Batcher, max_upload_bytes: int) -> FastAPI:
    """Return the service around a batcher, which runs as long as it does."""
    runtime = batcher.runtime

    @asynccontextmanager
    async def run_batcher(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(runtime.warm_up)
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()
        runtime.close()  # here, since uvicorn ends the process by the signal that it was sent

    app = FastAPI(title="segvit", lifespan=run_batcher)
    app.add_middleware(LimitUpload, max_bytes=max_upload_bytes)
    height, width = map(int, runtime.input.shape[1:3])

    @app.post("/segment")
    async def segment(image: UploadFile, format: Format = "labels") -> Response:
        """Class ids as a PNG of the image's size, an overlay as PNG, or class shares as JSON."""
        _check_type(image.content_type)
        with batcher.admit():
            pixels = await run_in_threadpool(_decode, await image.read(), image.filename)
            small = await run_in_threadpool(resize_image, pixels, (height, width))
            labels = await batcher.infer(small)
            return await run_in_threadpool(_encode, pixels, labels, format, runtime)

    @app.get("/classes")
    async def classes() -> list[dict[str, Any]]:
        """Every class with its id and RGB colour."""
        pairs = zip(runtime.classes, runtime.palette, strict=True)
        return [{"id": i, "name": name, "colour": colour} for i, (name, colour) in enumerate(pairs)]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """What runs, and how well requests are put together."""
        return {
            "status": "ok",
            "target": runtime.target,
            "size": [height, width],
            "batch": runtime.batch,
            "pending": batcher.pending,
            "images": batcher.images,
            "calls": batcher.calls,
        }

    return app


def _check_type(content_type: str | None) -> None:
    known = content_type or _OCTETS
    if not known.startswith("image/") and known != _OCTETS:
        raise HTTPException(415, f"expected an image, got {known}")


def _decode(data: bytes, name: str | None) -> Image:
    """Return RGB pixels `(H, W, 3)`.

    Raises:
        HTTPException: 400 if the bytes are no whole image, 413 if it has too many pixels.
    """
    try:
        decoded = decode_pixels(data, cv2.IMREAD_COLOR, f"image '{name}'")
    except UnreadableError as error:
        raise HTTPException(400, str(error)) from error
    except ValueError as error:
        raise HTTPException(413, str(error)) from error
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _encode(image: Image, labels: Labels, format: Format, runtime: Runtime) -> Response:
    """Return labels at the image's size in the format asked for."""
    labels = resize_labels(labels, image.shape[:2])
    if format == "json":
        shares = class_shares(labels, len(runtime.classes))
        present = [
            {"id": int(i), "name": runtime.classes[i], "share": round(float(shares[i]), 6)}
            for i in np.argsort(-shares, kind="stable")
            if shares[i] > 0
        ]
        height, width = labels.shape
        return JSONResponse({"height": height, "width": width, "classes": present})
    if format == "overlay":
        drawn = draw_overlay(image, labels, runtime.classes, runtime.palette)
        pixels = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
    else:
        pixels = labels.astype(np.uint8 if len(runtime.classes) <= 256 else np.uint16)
    return Response(cv2.imencode(".png", pixels)[1].tobytes(), media_type="image/png")


if __name__ == "__main__":
    run_main(main)
