"""The exported ONNX file on OpenVINO's CPU device."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engines.devices import Device
from engines.runtime import Images, Output, check_images, verify_onnx
from engines.target import Target
from export.manifest import Manifest

_CPU_INFO = Path("/proc/cpuinfo")
_INT8_SUMS = re.compile(r"\b(avx512_vnni|avx_vnni|amx_int8|asimddp)\b")


class OpenVinoRuntimeError(RuntimeError):
    """A model that OpenVINO loaded but cannot run, with its own message."""


class OpenVinoRuntime:
    """OpenVINO behind the `Runtime` protocol.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        device: the CPU; a bare number means it too.
        threads: None leaves them to OpenVINO.
        notes: what `open_runtime` passed over.

    Raises:
        ManifestError: if the ONNX file is not the one the manifest lists.
        ValueError: if another device is asked for, or OpenVINO cannot load the model.
    """

    target = Target.OPENVINO

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: Device,
        threads: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        if device.provider not in ("auto", "cpu"):
            raise ValueError(f"device '{device}': OpenVINO runs on the CPU here; give --device cpu")
        path = verify_onnx(folder, manifest, Target.OPENVINO)
        self.input, self.output = manifest.input, manifest.outputs[0]
        self.classes, self.palette = manifest.classes, manifest.palette
        self.batch, self.notes = manifest.batch, notes
        self._request: Any = compile_model(path, threads).create_infer_request()

    def infer(self, images: Images) -> Output:
        """Return labels `(B, H, W)` or scores `(B, C, H, W)` of RGB images `(B, H, W, 3)`."""
        images = check_images(images, self.input, self.batch)
        if self._request is None:
            raise ValueError("the runtime is closed; open it again with open_runtime")
        try:
            # The images are read where they are; what comes out is the caller's own.
            result = self._request.infer({self.input.name: images}, share_inputs=True)
        except RuntimeError as error:
            raise OpenVinoRuntimeError(f"OpenVINO failed to run the model: {error}") from error
        output: Output = result[self.output.name]
        return output

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._request = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def compile_model(path: Path, threads: int | None = None) -> Any:
    """Return an ONNX file compiled for the CPU, to be computed as it is written.

    1. Floats are summed in FP32: by itself OpenVINO takes BF16 where the CPU has it, which is not
       what was verified.
    2. Products in INT8 are INT8 where the CPU sums them in 32 bits. Without such instructions
       OpenVINO's pairwise sums saturate at 16 bits (0.95 of a land-cover model's labels instead of
       0.9996), so there they are computed in floats, as quantised as they are.

    Raises:
        ValueError: if OpenVINO cannot load it.
    """
    openvino = import_module("openvino")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if not sums_int8_exactly():
        settings["LP_TRANSFORMS_MODE"] = "OFF"
    try:
        return openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"'{path}' does not load on OpenVINO: {lines[-1]}") from error


def sums_int8_exactly() -> bool:
    """Return whether this CPU is known to add products of INT8 in 32 bits."""
    try:
        return bool(_INT8_SUMS.search(_CPU_INFO.read_text()))
    except OSError:
        return False
