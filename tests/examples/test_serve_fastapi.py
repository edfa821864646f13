"""The service, under a real uvicorn on 127.0.0.1."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.runtime import open_runtime
from examples.serve_fastapi import main
from export.manifest import ManifestError
from segvit.images import class_shares, draw_overlay, resize_labels
from tests.triton_server.artifacts import make_artifact

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

SCRIPT = Path(__file__).parents[2] / "examples" / "serve_fastapi.py"
START_S = 60


class Service:
    """A running service and what it answers: status, headers, body."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url

    def get(self, path: str) -> Any:
        return json.loads(self._send(urllib.request.Request(f"{self.url}/{path}"))[2])

    def post(
        self, data: bytes, format: str = "labels", kind: str = "image/png"
    ) -> tuple[int, dict[str, str], bytes]:
        head = (
            '--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = head.encode() + data + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        url = f"{self.url}/segment?format={format}"
        return self._send(urllib.request.Request(url, body, headers))

    def _send(self, request: urllib.request.Request) -> tuple[int, dict[str, str], bytes]:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()


@contextmanager
def serve(artifact: Path, log: Path, *options: object) -> Iterator[Service]:
    command = [sys.executable, SCRIPT, "--artifact", artifact, "--port", 0, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("OPENCV_IO_MAX_IMAGE_PIXELS", None)  # that of this process, which is larger
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"running on (http://[\d.:]+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Service(process, found[1])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("serve") / "artifact", batch="batch")


@pytest.fixture(scope="module")
def service(artifact: Path) -> Iterator[Service]:
    options = ("--max-delay-ms", 400, "--max-upload-mib", 1)
    with serve(artifact, artifact.with_name("log"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Eight RGB images of another size than the engine's."""
    coarse = np.random.default_rng(2).integers(0, 256, (8, 4, 4, 3), np.uint8)
    return [np.asarray(cv2.resize(image, (130, 96)), np.uint8) for image in coarse]


def encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def expect(artifact: Path, image: np.ndarray) -> np.ndarray:
    with open_runtime(artifact, threads=1) as runtime:
        return resize_labels(runtime.infer(cv2.resize(image, (64, 64))[None])[0], image.shape[:2])


def test_requests_at_once_share_calls(
    service: Service, artifact: Path, images: list[np.ndarray]
) -> None:
    before = service.get("health")
    with ThreadPoolExecutor(len(images)) as pool:
        answers = list(pool.map(lambda image: service.post(encode(image)), images))
    after = service.get("health")
    assert after["images"] - before["images"] == len(images)
    assert after["calls"] - before["calls"] <= len(images) // 2
    assert after["pending"] == 0
    for image, (status, headers, body) in zip(images, answers, strict=True):
        assert (status, headers["content-type"]) == (200, "image/png")
        assert np.array_equal(decode(body), expect(artifact, image))


def test_overlay_and_shares(service: Service, artifact: Path, images: list[np.ndarray]) -> None:
    labels = expect(artifact, images[0])
    status, headers, body = service.post(encode(images[0]), "overlay")
    with open_runtime(artifact) as runtime:
        classes, palette = runtime.classes, runtime.palette
    assert (status, headers["content-type"]) == (200, "image/png")
    assert np.array_equal(
        decode(body)[..., ::-1], draw_overlay(images[0], labels, classes, palette)
    )
    status, _, body = service.post(encode(images[0]), "json")
    answer, shares = json.loads(body), class_shares(labels, len(classes))
    assert (status, answer["height"], answer["width"]) == (200, 96, 130)
    assert [entry["share"] for entry in answer["classes"]] == sorted(
        (round(float(share), 6) for share in shares if share), reverse=True
    )
    for entry in answer["classes"]:
        assert entry["name"] == classes[entry["id"]]
        assert entry["share"] == pytest.approx(float(shares[entry["id"]]), abs=1e-6)


def test_classes_and_health(service: Service, artifact: Path) -> None:
    with open_runtime(artifact) as runtime:
        pairs = zip(runtime.classes, runtime.palette, strict=True)
        expected = [
            {"id": i, "name": name, "colour": list(rgb)} for i, (name, rgb) in enumerate(pairs)
        ]
    assert service.get("classes") == expected
    health = service.get("health")
    assert (health["status"], health["target"], health["size"]) == ("ok", "ort", [64, 64])
    assert health["batch"] == [1, 2, 4]


def test_bad_uploads_are_refused_and_the_next_is_served(
    service: Service, images: list[np.ndarray]
) -> None:
    good = encode(images[0])
    huge = cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))[1].tobytes()
    assert len(huge) < 2**20
    for data, kind, status, message in (
        (b"no image", "image/png", 400, "image 'a.png' cannot be decoded"),
        (b"", "image/png", 400, "image 'a.png' cannot be decoded"),
        (good[: len(good) // 2], "image/png", 400, "image 'a.png' is cut off"),
        (good, "text/plain", 415, "expected an image, got text/plain"),
        (bytes(2**20 + 1), "image/png", 413, "the request is above 1 MiB"),
        (huge, "image/png", 413, "is larger than 50 megapixels"),
    ):
        got, _, body = service.post(data, kind=kind)
        assert (got, message in json.loads(body)["detail"]) == (status, True), body
    assert service.post(good, "nothing")[0] == 422
    assert service.post(good)[0] == 200


def test_too_many_at_once_are_turned_away(artifact: Path, images: list[np.ndarray]) -> None:
    options = ("--max-delay-ms", 1500, "--max-pending", 3)
    with serve(artifact, artifact.with_name("busy"), *options) as busy:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda image: busy.post(encode(image)), images[:6]))
        statuses = sorted(status for status, _, _ in answers)
        assert statuses == [200, 200, 200, 503, 503, 503]
        refused = next(answer for answer in answers if answer[0] == 503)
        assert refused[1]["retry-after"] == "1"
        assert "3 requests are waiting already" in json.loads(refused[2])["detail"]
        assert busy.post(encode(images[0]))[0] == 200


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_what_was_begun_is_answered_before_the_end(
    artifact: Path, images: list[np.ndarray], stop: signal.Signals
) -> None:
    log = artifact.with_name(f"stop{stop}")
    with serve(artifact, log, "--max-delay-ms", 1500) as ending, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ending.post, encode(images[0]))
        while ending.get("health")["pending"] == 0:
            time.sleep(0.02)
        ending.process.send_signal(stop)
        assert answer.result()[0] == 200
        code = ending.process.wait(20)
    assert code == (0 if stop == signal.SIGINT else -signal.SIGTERM)
    text = log.read_text()
    assert "Application shutdown complete" in text
    assert "Traceback" not in text


def test_another_artifact_than_the_one_of_the_digest_is_refused(artifact: Path) -> None:
    with pytest.raises(ManifestError, match=f"expected digest {'a' * 64}, got "):
        main(["--artifact", str(artifact), "--digest", "a" * 64])


def test_scores_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", scores=True)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--artifact", folder],
        capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: the artifact gives scores; build it with --output labels\n"
