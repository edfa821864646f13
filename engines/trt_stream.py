"""Batch after batch through one instance, copies overlapping with computation.

Three CUDA streams (in, compute, out) and two sets of memory, ordered by events:

    in        k     k+1        k+2
    compute         k          k+1        k+2
    out                        k          k+1
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.arrays import Images, Output
from engines.cuda_arrays import DeviceView
from engines.cuda_buffers import BatchBuffers
from engines.gpu import check_cuda

if TYPE_CHECKING:
    from engines.trt_instance import TrtInstance


@dataclass(frozen=True)
class _Stage:
    """Where a batch waits before and after it is computed, and events that say how far it is."""

    buffers: BatchBuffers
    uploaded: Any
    computed: Any
    downloaded: Any


class BatchStream:
    """Two stages before and behind an instance's own buffers; made once, used by one at a time.

    Raises:
        GpuOutOfMemoryError: if the GPU has no room for the stages.
    """

    def __init__(self, instance: TrtInstance) -> None:
        self._instance = instance
        cuda, loaded = instance.cuda, instance.loaded
        self._upload, self._download = cuda.make_stream(), cuda.make_stream()
        self._stages = tuple(
            _Stage(
                BatchBuffers(cuda, loaded.input, loaded.output, loaded.batch[2]),
                *(cuda.make_event() for _ in range(3)),
            )
            for _ in range(2)
        )

    def run(self, batches: Iterable[Images | DeviceView]) -> Generator[Output]:
        """Yield the output of each batch, in order; an error of `batches` comes in its place.

        Raises:
            ValueError: if no optimisation profile takes a batch.
            TrtRuntimeError: if the engine did not run.
            GpuError: if CUDA failed.
        """
        instance = self._instance
        free, waiting = deque(self._stages), deque[tuple[_Stage, int]]()
        failures: list[Exception] = []
        try:
            for images in _until_error(batches, failures):
                instance.cuda.choose()  # every batch may be asked for by another thread
                if isinstance(images, DeviceView):  # nothing to copy that could overlap
                    while waiting:
                        yield self._collect(free, waiting)
                    yield instance.run(images, None)
                    continue
                done = None if free else self._collect(free, waiting)
                stage = free.popleft()
                waiting.append((stage, len(images)))
                self._submit(stage, images)
                if done is not None:
                    yield done
            while waiting and not instance.is_closed:
                yield self._collect(free, waiting)
            if failures:
                raise failures[0]
        finally:
            # Left early: what is on its way still uses the stages, unless they are freed already.
            if waiting and not instance.is_closed:
                self._wait_for_all()

    def _submit(self, stage: _Stage, images: Images) -> None:
        """Put a batch on its way; nothing is waited for."""
        instance, buffers, count = self._instance, stage.buffers, len(images)
        cuda, compute, own = instance.cuda, instance.compute, instance.buffers
        pinned, labels = buffers.host_input(count), buffers.host_output(count)
        np.copyto(pinned, images)
        cuda.copy_to_gpu(buffers.input, pinned, self._upload)
        cuda.record(stage.uploaded, self._upload)
        cuda.wait(compute, stage.uploaded)
        # The engine stays bound to one pair of addresses, so that its CUDA graph stays valid; a
        # copy on the GPU takes microseconds.
        cuda.copy_on_gpu(own.input, buffers.input, pinned.nbytes, compute)
        instance.launch(count, own.input, own.output)
        cuda.copy_on_gpu(buffers.output, own.output, labels.nbytes, compute)
        cuda.record(stage.computed, compute)
        cuda.wait(self._download, stage.computed)
        cuda.copy_from_gpu(labels, buffers.output, self._download)
        cuda.record(stage.downloaded, self._download)

    def _collect(self, free: deque[_Stage], waiting: deque[tuple[_Stage, int]]) -> Output:
        """Return the oldest batch's output once it is there, and give its stage back."""
        stage, count = waiting[0]
        result = self._instance.cuda.cudart.cudaEventSynchronize(stage.downloaded)
        check_cuda(result, "running the engine")
        output = stage.buffers.host_output(count).copy()
        free.append(waiting.popleft()[0])
        return output

    def _wait_for_all(self) -> None:
        """Wait whatever the outcome: an error that matters was raised already."""
        cudart = self._instance.cuda.cudart
        for stream in (self._upload, self._instance.compute, self._download):
            cudart.cudaStreamSynchronize(stream)


def _until_error(
    batches: Iterable[Images | DeviceView], failures: list[Exception]
) -> Iterator[Images | DeviceView]:
    """Yield batches; an error of theirs ends them and is put into `failures`."""
    try:
        yield from batches
    except Exception as error:  # the caller's own, raised once what came before is given
        failures.append(error)
