"""The exported ONNX file on OpenVINO's CPU device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from engines.arrays import Images, Output, Staging, batch_shape, check_tensors, view_array
from engines.cpu import sums_int8_exactly
from engines.devices import Device
from engines.runtime import verify_onnx
from engines.target import Target
from export.manifest import Manifest, TensorSpec


class OpenVinoRuntimeError(RuntimeError):
    """A model that OpenVINO loaded but cannot run, with its own message."""


class OpenVinoEngine:
    """A compiled model of as many streams as there are to be instances.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        device: the CPU; a bare number means it too.
        threads: of all instances together; None leaves them to OpenVINO.
        instances: calls that run at once.

    Raises:
        ManifestError: if the ONNX file is not the one the manifest lists and describes.
        ValueError: if another device is asked for, or OpenVINO cannot load the model.
    """

    target = Target.OPENVINO
    streams = False

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: Device,
        threads: int | None = None,
        instances: int = 1,
    ) -> None:
        if device.provider not in ("auto", "cpu"):
            raise ValueError(f"device '{device}': OpenVINO runs on the CPU here; give --device cpu")
        path = verify_onnx(folder, manifest, Target.OPENVINO)
        self._specs = manifest.input, manifest.outputs[0]
        self.compiled: Any = compile_model(path, threads, instances)
        ports = (*self.compiled.inputs, *self.compiled.outputs)
        check_tensors(path, [_describe_port(port) for port in ports], manifest)
        streams = int(self.compiled.get_property("NUM_STREAMS"))
        notes = []
        if streams < instances:  # a stream has a thread of its own at least
            notes.append(f"openvino: {streams} of {instances} instances run at once, for want of "
                         "threads")  # fmt: skip
        hint = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        asked_bf16 = manifest.precision == "bf16" or "--float-type=bf16" in manifest.command
        if asked_bf16 and hint == "f32":
            notes.append("openvino: this CPU has no BF16 instructions: BF16 is computed in FP32")
        self.notes = tuple(notes)

    def make_instance(self) -> OpenVinoInstance:
        """Return an inference request."""
        return OpenVinoInstance(self.compiled.create_infer_request(), *self._specs)

    def close(self) -> None:
        """Free the compiled model."""
        self.compiled = None


class OpenVinoInstance:
    """One inference request whose tensors are the caller's memory."""

    def __init__(self, request: Any, source: TensorSpec, result: TensorSpec) -> None:
        self._make_tensor = import_module("openvino").Tensor
        self._request = request
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
        request = self._request
        try:
            for spec, array in ((self._input, self._staging.place(images)), (self._output, out)):
                request.set_tensor(spec.name, self._make_tensor(array, shared_memory=True))
            # Not `infer`, which makes arrays of the results.
            request.start_async()
            request.wait()
        except RuntimeError as error:
            raise OpenVinoRuntimeError(f"OpenVINO failed to run the model: {error}") from error
        return out


def _describe_port(port: Any) -> TensorSpec:
    shape = (int(size.get_length()) if size.is_static else str(size) for size in port.partial_shape)
    return TensorSpec(port.any_name, str(port.element_type.to_dtype()), tuple(shape))


@cache
def open_core() -> Any:
    """Return OpenVINO's core, the only one and never freed.

    On CPUs with AMX its plugin gives the thread that loads it another stack for signal handlers,
    and frees that when the last user is gone: on any other thread, the first signal afterwards
    ends the process.
    """
    return import_module("openvino").Core()


def compile_model(
    path: Path,
    threads: int | None = None,
    streams: int = 1,
    profile: bool = False,
    outputs: Sequence[str] = (),
) -> Any:
    """Return an ONNX file compiled for the CPU, to be computed as it is written.

    1. Floats are summed in FP32, unless the file holds BF16 and the CPU computes it: by itself
       OpenVINO takes BF16 where it can, which is not what was verified.
    2. Products in INT8 are INT8 where the CPU sums them in 32 bits. Without such instructions
       OpenVINO's pairwise sums saturate at 16 bits (0.95 of a land-cover model's labels instead of
       0.9996), so there they are computed in floats, as quantised as they are.
    3. A stream runs one call at a time, so each of several requests needs its own.

    Args:
        path: the ONNX file.
        threads: of all streams together; None leaves them to OpenVINO.
        streams: calls that run at once.
        profile: have each operator timed.
        outputs: values that it gives beside its own, in FP32; those that OpenVINO reads away are
            left out.

    Raises:
        ValueError: if OpenVINO cannot load it.
    """
    core = open_core()
    settings: dict[str, Any] = {"NUM_STREAMS": streams, "PERF_COUNT": profile}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if not sums_int8_exactly():
        settings["LP_TRANSFORMS_MODE"] = "OFF"
    try:
        model = core.read_model(path)
        in_bf16 = holds_bf16(model) and computes_bf16()
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if in_bf16 else "f32"
        model = _expose(model, outputs) if outputs else model
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"'{path}' does not load on OpenVINO: {lines[-1]}") from error


def _expose(model: Any, names: Sequence[str]) -> Any:
    given = {name for port in model.outputs for name in port.names}
    known = {name for op in model.get_ops() for port in op.outputs() for name in port.names}
    added = [name for name in names if name in known - given]
    model.add_outputs(added)
    prepared = import_module("openvino.preprocess").PrePostProcessor(model)
    f32 = import_module("openvino").Type.f32
    for name in added:
        prepared.output(name).tensor().set_element_type(f32)
    return prepared.build()


def holds_bf16(model: Any) -> bool:
    """Return whether a model that OpenVINO read has values in BF16."""
    bf16 = import_module("openvino").Type.bf16
    return any(
        output.get_element_type() == bf16 for node in model.get_ops() for output in node.outputs()
    )


def computes_bf16() -> bool:
    """Return whether this CPU has BF16 instructions."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
