"""The exported ONNX file on ONNX Runtime: CPU, CUDA or TensorRT execution provider."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnxruntime

from engines.devices import Device
from engines.runtime import Images, Output, check_images, verify_onnx
from engines.target import Target
from export.manifest import Manifest

_PROVIDERS = {
    "auto": "CPUExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ERRORS_ONLY = 3


class OrtRuntimeError(RuntimeError):
    """A model that ONNX Runtime loaded but cannot run, with its own message."""


class OrtRuntime:
    """ONNX Runtime behind the `Runtime` protocol.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        device: the execution provider; a bare number means the CPU.
        threads: of the CPU provider; None leaves it to ONNX Runtime.
        notes: what `open_runtime` passed over.

    Raises:
        ManifestError: if the ONNX file is not the one the manifest lists.
        ValueError: if this onnxruntime lacks the provider, or cannot load the model on it.
    """

    target = Target.ORT

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: Device,
        threads: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        path = verify_onnx(folder, manifest, Target.ORT)
        self.input, self.output = manifest.input, manifest.outputs[0]
        self.classes, self.palette = manifest.classes, manifest.palette
        self.batch, self.notes = manifest.batch, notes
        self._session: Any = open_session(path, device, threads)

    def infer(self, images: Images) -> Output:
        """Return labels `(B, H, W)` or scores `(B, C, H, W)` of RGB images `(B, H, W, 3)`."""
        images = check_images(images, self.input, self.batch)
        if self._session is None:
            raise ValueError("the runtime is closed; open it again with open_runtime")
        try:
            output: Output = self._session.run([self.output.name], {self.input.name: images})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise OrtRuntimeError(f"ONNX Runtime failed to run the model: {error}") from error
        return output

    def close(self) -> None:
        """Free the session; a second call does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_session(path: Path, device: Device, threads: int | None = None) -> Any:
    """Return the session of an ONNX file on exactly the provider asked for.

    Raises:
        ValueError: if this onnxruntime lacks it, or cannot run the model on it.
    """
    provider = _PROVIDERS[device.provider]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ValueError(
            f"device '{device}' needs ONNX Runtime's {provider}, this one has "
            f"{', '.join(available)}; install onnxruntime-gpu, or give --device cpu"
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        settings.intra_op_num_threads = threads
    options = {} if provider == "CPUExecutionProvider" else {"device_id": str(device.index)}
    try:
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=[provider], provider_options=[options]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ValueError(f"'{path}' does not load on ONNX Runtime ({provider}): {error}") from error
    used = session.get_providers()
    if used[0] != provider:
        # ONNX Runtime goes on with the CPU when a provider's libraries do not load.
        raise ValueError(
            f"device '{device}': {provider} did not start, only {', '.join(used)} did; see "
            "onnxruntime's message above, or give --device cpu"
        )
    return session
