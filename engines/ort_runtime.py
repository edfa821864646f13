"""The exported ONNX file on ONNX Runtime: CPU, CUDA or TensorRT execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from engines.arrays import Images, Output, Staging, batch_shape, check_tensors, view_array
from engines.cpu import sums_int8_exactly
from engines.devices import Device
from engines.runtime import verify_onnx
from engines.target import Target
from export.manifest import Manifest, TensorSpec

_PROVIDERS = {
    "auto": "CPUExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}
_ERRORS_ONLY = 3
_NO_INTEGER_PRODUCTS = "session.disable_quant_qdq"


class OrtRuntimeError(RuntimeError):
    """A model that ONNX Runtime loaded but cannot run, with its own message."""


class OrtEngine:
    """One session, which any number of threads may run at once; instances share its threads.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        device: the execution provider; a bare number means the CPU.
        threads: of the CPU provider; None leaves it to ONNX Runtime.

    Raises:
        ManifestError: if the ONNX file is not the one the manifest lists and describes.
        ValueError: if this onnxruntime lacks the provider, or cannot load the model on it.
    """

    target = Target.ORT
    streams = False
    notes = ()

    def __init__(
        self, folder: Path, manifest: Manifest, device: Device, threads: int | None = None
    ) -> None:
        path = verify_onnx(folder, manifest, Target.ORT)
        self._specs = manifest.input, manifest.outputs[0]
        self.session: Any = open_session(path, device, threads)
        tensors = (*self.session.get_inputs(), *self.session.get_outputs())
        found = [TensorSpec(t.name, _DTYPES.get(t.type, t.type), tuple(t.shape)) for t in tensors]
        check_tensors(path, found, manifest)

    def make_instance(self) -> OrtInstance:
        """Return bindings of the session's input and output."""
        return OrtInstance(self.session, *self._specs)

    def close(self) -> None:
        """Free the session."""
        self.session = None


class OrtInstance:
    """Input and output bound to the caller's memory, so that nothing is copied on a CPU."""

    def __init__(self, session: Any, source: TensorSpec, result: TensorSpec) -> None:
        self._session, self._binding = session, session.io_binding()
        self._input, self._output = source, result
        self._staging = Staging()

    def view(self, array: object, name: str) -> Any:
        """Return the array as numpy sees it."""
        return view_array(array, name)

    def run(self, images: Images, out: Output | None) -> Output:
        """Write the output of `images` to `out`, or to a new array, and return it."""
        if out is None:
            shape = batch_shape(self._output, len(images))
            out = np.empty(shape, self._output.dtype)
        placed = self._staging.place(images)
        binding = self._binding
        try:
            for bind, spec, array in (
                (binding.bind_input, self._input, placed),
                (binding.bind_output, self._output, out),
            ):
                bind(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise OrtRuntimeError(f"ONNX Runtime failed to run the model: {error}") from error
        return out


def open_session(
    path: Path, device: Device, threads: int | None = None, profile: Path | None = None
) -> Any:
    """Return the session of an ONNX file on exactly the provider asked for.

    Where the CPU's sums of INT8 products saturate they are computed in floats, as quantised as they
    are: the CPU provider then takes Q/DQ for what they say and dequantises weights once.

    Args:
        path: the ONNX file.
        device: the execution provider.
        threads: of the CPU provider; None leaves it to ONNX Runtime.
        profile: begins the name of the file that `end_profiling` writes, if one is wanted.

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
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    if provider == "CPUExecutionProvider" and not sums_int8_exactly():
        settings.add_session_config_entry(_NO_INTEGER_PRODUCTS, "1")
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
