"""One execution context of an engine with its stream, memory and CUDA graph: one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from engines.arrays import Images, Output, batch_shape, view_array
from engines.cuda_arrays import DeviceView, is_device_array, view_device_array
from engines.cuda_buffers import BatchBuffers
from engines.cuda_graphs import Binding, GraphLauncher
from engines.cuda_resources import CudaResources
from engines.trt_stream import BatchStream
from export.manifest import TensorSpec


class TrtRuntimeError(RuntimeError):
    """An engine that did not load or run, with TensorRT's own message."""


@dataclass(frozen=True)
class LoadedEngine:
    """An engine in memory: what its instances share.

    `profiles` are the optimisation profiles' (smallest, largest) batches. `make_context` returns
    an execution context or raises, `describe_errors` what TensorRT said went wrong, `tell` takes
    what a user should know. `capture` is False where the runtime captures graphs by itself.
    """

    input: TensorSpec
    output: TensorSpec
    batch: tuple[int, int, int]
    profiles: tuple[tuple[int, int], ...]
    device: int
    cudart: ModuleType
    make_context: Callable[[], Any]
    describe_errors: Callable[[], str]
    tell: Callable[[str], None]
    capture: bool


def choose_profile(profiles: tuple[tuple[int, int], ...], count: int) -> int:
    """Return the optimisation profile for a batch: of those that hold it, the tightest.

    Raises:
        ValueError: if none holds it.
    """
    fitting = [
        (largest - smallest, index)
        for index, (smallest, largest) in enumerate(profiles)
        if smallest <= count <= largest
    ]
    if not fitting:
        ranges = ", ".join(f"{smallest} to {largest}" for smallest, largest in profiles)
        raise ValueError(f"images: no optimisation profile takes {count} at once, only {ranges}")
    return min(fitting)[1]


class TrtInstance:
    """An execution context ready to run; as many as there is memory for share one engine.

    Images and output may be on the host, or on the engine's GPU, where they are used as they lie.

    Raises:
        GpuOutOfMemoryError: if the GPU has no room for another.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self.loaded = loaded
        self.cuda = CudaResources(loaded.cudart, loaded.device)
        self._context: Any = None
        self._profile = 0
        self._launcher: GraphLauncher | None = None
        self._idle_streams: list[BatchStream] = []
        try:
            self._context = loaded.make_context()
            self.compute = self.cuda.make_stream()
            self.buffers = BatchBuffers(self.cuda, loaded.input, loaded.output, loaded.batch[2])
            self._launcher = GraphLauncher(
                loaded.cudart, self.compute, self._bind, self._enqueue, loaded.tell, loaded.capture
            )
        except BaseException:
            self.close()
            raise

    def view(self, array: object, name: str) -> Any:
        """Return a `DeviceView` of an array on the GPU, or the numpy array that a host one is.

        Raises:
            ValueError: if it is neither, or lies where the engine cannot use it.
        """
        if not is_device_array(array):
            return view_array(array, name)
        self.cuda.choose()
        return view_device_array(array, name, self.cuda, self.compute)

    def run(self, images: Images | DeviceView, out: Any | None) -> Any:
        """Write the output of images `(B, H, W, 3)` to `out`, or to a new numpy array; return it.

        Raises:
            ValueError: if no optimisation profile takes so many.
            TrtRuntimeError: if the engine did not run.
            GpuError: if CUDA failed.
        """
        cuda, own, count = self.cuda, self.buffers, images.shape[0]
        pinned, labels = own.host_input(count), own.host_output(count)
        if out is None:
            out = own.make_output(count)
        source = images.address if isinstance(images, DeviceView) else own.input
        target = out.address if isinstance(out, DeviceView) else own.output
        cuda.choose()
        if not isinstance(images, DeviceView):
            np.copyto(pinned, images)
            cuda.copy_to_gpu(own.input, pinned, self.compute)
        self.launch(count, source, target)
        if not isinstance(out, DeviceView):
            cuda.copy_from_gpu(labels, own.output, self.compute)
        cuda.finish(self.compute, "running the engine")
        if not isinstance(out, DeviceView):
            np.copyto(out, labels)
        return out

    @property
    def is_closed(self) -> bool:
        """Whether its memory is freed."""
        return self._launcher is None

    def stream(self, batches: Iterable[Images | DeviceView]) -> Generator[Output]:
        """Yield the output of each batch, in order; copies overlap with computation.

        Batches are what `view` gave, checked as for `run`. Streams that are open at the same time
        have memory each, which later ones use again.

        Raises:
            ValueError, TrtRuntimeError, GpuError: as `run` does.
        """
        if not self._idle_streams:
            self.cuda.choose()
        stream = self._idle_streams.pop() if self._idle_streams else BatchStream(self)
        try:
            yield from stream.run(batches)
        finally:
            self._idle_streams.append(stream)

    def launch(self, count: int, source: int, target: int) -> None:
        """Enqueue the engine for a batch between two addresses, on the stream `compute`.

        Raises:
            TrtRuntimeError: if TensorRT refuses; the next call starts afresh.
        """
        if self._launcher is None:
            raise ValueError("the runtime is closed; open it again with open_runtime")
        profile = choose_profile(self.loaded.profiles, count)
        shape = batch_shape(self.loaded.input, count)
        try:
            self._launcher.launch(Binding(profile, shape, (source, target)))
        except BaseException:
            self._launcher.drop()
            raise

    def close(self) -> None:
        """Free graph, context and memory; a second call does nothing."""
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            self.cuda.choose()
            launcher.drop()
        self._context = None  # before the memory that it is bound to
        self.cuda.close()

    def _bind(self, binding: Binding) -> None:
        """Set the context to a profile, a shape and addresses."""
        context, names = self._context, (self.loaded.input.name, self.loaded.output.name)
        self.cuda.finish(self.compute, "running the engine")  # it may still use what it has
        if binding.profile != self._profile:
            if not context.set_optimization_profile_async(binding.profile, int(self.compute)):
                raise self._refused(f"optimisation profile {binding.profile}")
            self._profile = binding.profile
        if not context.set_input_shape(names[0], binding.shape):
            raise self._refused(f"input shape {binding.shape}")
        expected = batch_shape(self.loaded.output, binding.shape[0])
        got = tuple(context.get_tensor_shape(names[1]))
        if got != expected:
            raise TrtRuntimeError(f"'{names[1]}': expected shape {expected}, the engine has {got}")
        for name, address in zip(names, binding.addresses, strict=True):
            if not context.set_tensor_address(name, address):
                raise self._refused(f"the address of '{name}'")

    def _enqueue(self) -> None:
        context = self._context
        if not context.execute_async_v3(int(self.compute)):
            raise TrtRuntimeError(f"the engine did not run: {self.loaded.describe_errors()}")

    def _refused(self, what: str) -> TrtRuntimeError:
        return TrtRuntimeError(f"{what} was refused: {self.loaded.describe_errors()}")
