"""TensorRT and TensorRT-RTX engines behind the `Runtime` protocol, through cuda-python."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np

from engines.gpu import check_cuda, import_cudart
from engines.runtime import Images, Output, check_images, find_entry
from engines.target import Target, import_tensorrt, installed_version, own_compute_capability
from export.manifest import BuiltTarget, Manifest, ManifestError, TensorSpec, read_verified


class TrtRuntimeError(RuntimeError):
    """An engine that did not load or run, with TensorRT's own message."""


def find_usable_entry(folder: Path, manifest: Manifest, target: Target, device: int) -> BuiltTarget:
    """Return the engine made for this GPU by the TensorRT installed here.

    Raises:
        ValueError: if there is none; the message has the command that makes one.
    """
    entry = find_entry(folder, manifest, target, own_compute_capability(device))
    check_version(folder, entry, installed_version(target))
    return entry


def check_version(folder: Path, entry: BuiltTarget, installed: str) -> None:
    """Accept an engine of the very version installed; others' formats differ.

    Raises:
        ValueError: if the versions differ; the message has the command that rebuilds.
    """
    if entry.version != installed:
        raise ValueError(
            f"'{folder / entry.file}' was built by {entry.target} {entry.version}, installed is "
            f"{installed}; install that version, or rebuild it: "
            f"python -m engines.build --artifact {folder} --target {entry.target}"
        )


class TrtRuntime:
    """One engine, one execution context, one CUDA stream; calls wait for each other.

    Hash, version and compute capability are checked before the engine is deserialised, since an
    engine is executable code.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        target: TRT or TRT_RTX.
        device: the GPU's number.
        notes: what `open_runtime` passed over.

    Raises:
        ManifestError: if the engine was changed.
        ValueError: if it was made for another GPU or version.
        TrtRuntimeError: if TensorRT cannot load it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        target: Target,
        device: int = 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.target, self.notes = target, notes
        self.input, self.output = manifest.input, manifest.outputs[0]
        self.classes, self.palette = manifest.classes, manifest.palette
        self.batch = manifest.batch
        self._lock = threading.Lock()
        self._buffers: dict[str, Any] = {}
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()
        entry = find_usable_entry(folder, manifest, target, device)
        plan = read_verified(folder, entry.file, manifest)
        trt, self._cudart = import_tensorrt(target), import_cudart()
        self._device = device
        check_cuda(self._cudart.cudaSetDevice(device), f"choosing GPU {device}")
        self._logger = _make_logger(trt)
        # The runtime must outlive the engine, and the engine its context.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise TrtRuntimeError(f"'{folder / entry.file}' did not load: {self._errors()}")
        self._check_bindings(trt, folder / entry.file)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise TrtRuntimeError(f"'{folder / entry.file}' has no context: {self._errors()}")
        try:
            self._allocate()
        except BaseException:
            self.close()
            raise

    def infer(self, images: Images) -> Output:
        """Return labels `(B, H, W)` or scores `(B, C, H, W)` of RGB images `(B, H, W, 3)`."""
        images = check_images(images, self.input, self.batch)
        with self._lock:
            if self._context is None:
                raise ValueError("the runtime is closed; open it again with open_runtime")
            return self._run(images)

    def close(self) -> None:
        """Free engine, buffers and stream; a second call does nothing."""
        with self._lock:
            self._context = self._engine = self._runtime = None
            for address in self._buffers.values():
                self._cudart.cudaFree(address)
            self._buffers.clear()
            if self._stream is not None:
                self._cudart.cudaStreamDestroy(self._stream)
                self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, images: Images) -> Output:
        """Copy in, execute, copy out, all on one stream."""
        cudart, context = self._cudart, self._context
        check_cuda(cudart.cudaSetDevice(self._device), f"choosing GPU {self._device}")
        if images.shape != self._shape:
            if not context.set_input_shape(self.input.name, images.shape):
                raise TrtRuntimeError(f"input shape {images.shape} was refused: {self._errors()}")
            self._shape = images.shape
        output = np.empty((len(images), *_sizes(self.output)), np.dtype(self.output.dtype))
        self._copy(self._buffers[self.input.name], images, cudart.cudaMemcpyKind, to_device=True)
        if not context.execute_async_v3(int(self._stream)):
            raise TrtRuntimeError(f"the engine did not run: {self._errors()}")
        self._copy(self._buffers[self.output.name], output, cudart.cudaMemcpyKind, to_device=False)
        check_cuda(cudart.cudaStreamSynchronize(self._stream), "running the engine")
        return output

    def _copy(self, address: Any, array: Output, kinds: Any, to_device: bool) -> None:
        host, count = array.ctypes.data, array.nbytes
        if to_device:
            kind, ends = kinds.cudaMemcpyHostToDevice, (address, host)
        else:
            kind, ends = kinds.cudaMemcpyDeviceToHost, (host, address)
        result = self._cudart.cudaMemcpyAsync(*ends, count, kind, self._stream)
        check_cuda(result, "copying " + ("to" if to_device else "from") + " the GPU")

    def _allocate(self) -> None:
        """Make the stream, and buffers for the largest batch, bound once and for all."""
        cudart = self._cudart
        self._stream = check_cuda(cudart.cudaStreamCreate(), "making a stream")
        for spec in (self.input, self.output):
            item = np.dtype(spec.dtype).itemsize
            count = self.batch[2] * int(np.prod(_sizes(spec))) * item
            what = f"reserving {count / 2**20:.0f} MiB for '{spec.name}'"
            self._buffers[spec.name] = check_cuda(cudart.cudaMalloc(count), what)
            self._context.set_tensor_address(spec.name, int(self._buffers[spec.name]))

    def _check_bindings(self, trt: ModuleType, path: Path) -> None:
        """Refuse an engine whose tensors are not those of the manifest."""
        engine = self._engine
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        expected = {self.input.name: True, self.output.name: False}
        if found != expected:
            raise ManifestError(
                f"'{path}' has the tensors {', '.join(found)}, the manifest lists "
                f"{', '.join(expected)}; rebuild it"
            )

    def _errors(self) -> str:
        return " | ".join(self._logger.errors) or "TensorRT gave no reason"


def _make_logger(trt: ModuleType) -> Any:
    """Return a logger that keeps errors for our messages."""

    class RunLogger(trt.ILogger):  # type: ignore[misc,name-defined]  # a class found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return RunLogger()


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    """Return a tensor's sizes after the batch; only the batch may be dynamic."""
    return tuple(int(size) for size in spec.shape[1:])
