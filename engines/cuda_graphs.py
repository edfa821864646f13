"""The CUDA graph of an execution context: its kernels launched with one call.

NVIDIA leaves undefined what a graph does once the context that it was captured from has changed
(another profile, shape or address), so there is at most one: that of what the context is bound to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engines.gpu import GpuError, check_cuda


@dataclass(frozen=True)
class Binding:
    """What a graph is captured for: optimisation profile, input shape, addresses of the tensors."""

    profile: int
    shape: tuple[int, ...]
    addresses: tuple[int, int]


class GraphLauncher:
    """Enqueues a context: as it comes after a change, then captured, then as a graph.

    The first enqueue of a binding brings the context's own state up to date, which may not be
    captured; the second is captured; from then on the graph is launched. Where capture fails
    there is ordinary enqueueing, and `tell` is told why.

    Args:
        cudart: the CUDA runtime bindings.
        stream: that of all launches.
        bind: sets a context to a binding; called before a binding's first enqueue alone.
        enqueue: enqueues the context on the stream; raises what it fails with.
        tell: takes the reason if nothing can be captured.
        capture: False where the runtime captures by itself (TensorRT-RTX).
    """

    def __init__(
        self,
        cudart: ModuleType,
        stream: Any,
        bind: Callable[[Binding], None],
        enqueue: Callable[[], None],
        tell: Callable[[str], None],
        capture: bool = True,
    ) -> None:
        self._cudart, self._stream = cudart, stream
        self._bind, self._enqueue, self._tell = bind, enqueue, tell
        self._capture = capture
        self._bound: Binding | None = None
        self._graph: Any = None

    def launch(self, binding: Binding) -> None:
        """Enqueue the context, bound to `binding`, on the stream."""
        if binding != self._bound:
            self.drop()
            self._bind(binding)
            self._enqueue()
            self._bound = binding
            return
        if self._graph is None and self._capture:
            self._try_capture()
        if self._graph is None:
            self._enqueue()
        else:
            check_cuda(self._cudart.cudaGraphLaunch(self._graph, self._stream), "launching a graph")

    def drop(self) -> None:
        """Forget binding and graph: before a change, after a failure, at the end."""
        self._bound = None
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cudart.cudaStreamSynchronize(self._stream)  # it may still be running
            self._cudart.cudaGraphExecDestroy(graph)

    def _try_capture(self) -> None:
        cudart = self._cudart
        try:
            # Other threads may reserve memory meanwhile; the default mode would make that fail.
            mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            check_cuda(cudart.cudaStreamBeginCapture(self._stream, mode), "starting a capture")
            failure: Exception | None = None
            try:
                self._enqueue()
            except Exception as error:  # raised below, once the capture has ended
                failure = error
            # Ended in any case, or the stream would go on capturing.
            ended = cudart.cudaStreamEndCapture(self._stream)
            if failure is not None:
                raise failure
            captured = check_cuda(ended, "ending a capture")
            try:
                instance = cudart.cudaGraphInstantiate(captured, 0)
                self._graph = check_cuda(instance, "making a graph")
            finally:
                cudart.cudaGraphDestroy(captured)
        except (GpuError, RuntimeError) as error:
            cudart.cudaGetLastError()  # what was said here is no failure of what comes next
            self._capture = False
            self._tell(f"kernels are launched one by one, no CUDA graph was captured: {error}")
