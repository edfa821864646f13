"""A tritonserver process on a free port of 127.0.0.1, and what it is asked over HTTP."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.triton_server.install import VENV, assemble_backends, install, site_packages

_START_TIMEOUT_S, _STOP_TIMEOUT_S, _REQUEST_TIMEOUT_S = 30, 15, 60
_HEADER_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}


class ServerError(RuntimeError):
    """What the server answered to a request that it refuses."""


class TritonServer:
    """A running server; models are loaded and unloaded by request. A context manager."""

    def __init__(self, repository: Path, folder: Path) -> None:
        server = install()
        self.log = folder / "server.log"
        self.url = f"http://127.0.0.1:{_free_port()}"
        backends = assemble_backends(server, folder / "backends")
        libraries = site_packages() / "nvidia_pytriton.libs"
        environment = {
            **os.environ,
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",  # the stub's Python is found there
            "LD_LIBRARY_PATH": str(libraries),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    server / "bin" / "tritonserver",
                    f"--model-repository={repository}",
                    f"--backend-directory={backends}",
                    "--model-control-mode=explicit",
                    "--http-address=127.0.0.1",
                    f"--http-port={self.url.rsplit(':', 1)[1]}",
                    "--allow-grpc=false",
                    "--allow-metrics=false",
                    f"--backend-config=python,shm-region-prefix-name=segvit{os.getpid()}",
                ],
                stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"tritonserver did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and the processes of its back ends."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def load(self, model: str) -> None:
        """Load a model, its newest version warmed up.

        Raises:
            ServerError: if the server refuses its configuration or its file.
        """
        self.ask(f"repository/models/{model}/load", {})

    def ask(self, path: str, document: Any = None) -> Any:
        """Return the answer to a GET, or to a POST of a JSON document."""
        body = None if document is None else json.dumps(document).encode()
        answer, _ = self._send(path, body, {})
        return json.loads(answer or b"{}")

    def infer(self, model: str, images: np.ndarray) -> np.ndarray:
        """Return a model's output for one request."""
        described = {"name": "image", "shape": images.shape, "datatype": "UINT8",
                     "parameters": {"binary_data_size": images.nbytes}}  # fmt: skip
        head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}})
        body = head.encode() + np.ascontiguousarray(images).tobytes()
        answer, length = self._send(
            f"models/{model}/infer", body, {_HEADER_LENGTH: str(len(head.encode()))}
        )
        output = json.loads(answer[:length])["outputs"][0]
        values = np.frombuffer(answer[length:], _DTYPES[output["datatype"]])
        return values.reshape(output["shape"])

    def _is_ready(self) -> bool:
        try:
            self.ask("health/ready")
        except (OSError, ServerError):
            return False
        return True

    def _send(
        self, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[bytes, int | None]:
        request = urllib.request.Request(f"{self.url}/v2/{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                length = response.headers.get(_HEADER_LENGTH)
                return response.read(), None if length is None else int(length)
        except urllib.error.HTTPError as error:
            raise ServerError(error.read().decode()) from error


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
