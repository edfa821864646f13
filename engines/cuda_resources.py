"""What a runtime holds of CUDA: memory, streams, events; all freed together, the last first."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.gpu import GpuOutOfMemoryError, check_cuda, out_of_memory, to_mib

Bytes = npt.NDArray[np.uint8]


class CudaResources:
    """Makes things of CUDA on one GPU and frees them in `close`.

    Args:
        cudart: the CUDA runtime bindings.
        device: the GPU's number; every thread that uses what is made here calls `choose` first.
    """

    def __init__(self, cudart: ModuleType, device: int) -> None:
        self.cudart, self.device = cudart, device
        self._made = ExitStack()
        self.choose()

    def choose(self) -> None:
        """Make the GPU that of the calling thread."""
        check_cuda(self.cudart.cudaSetDevice(self.device), f"choosing GPU {self.device}")

    def allocate(self, count: int, what: str) -> int:
        """Return the address of `count` bytes on the GPU, aligned to 256.

        Raises:
            GpuOutOfMemoryError: naming what was to be reserved, the MiB needed and those free.
        """
        address = reserve_memory(self.cudart, count, what)
        self._made.callback(self.cudart.cudaFree, address)
        return address

    def allocate_pinned(self, count: int, what: str) -> Bytes:
        """Return host memory that the GPU copies from and to by itself, while the CPU goes on.

        Raises:
            GpuError: if the operating system does not give that much.
        """
        flags = self.cudart.cudaHostAllocDefault
        what = f"pinning {to_mib(count)} MiB of host memory for {what}"
        address = int(check_cuda(self.cudart.cudaHostAlloc(count, flags), what))
        self._made.callback(self.cudart.cudaFreeHost, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))

    def make_stream(self) -> Any:
        """Return a stream that does not wait for the default one."""
        flags = self.cudart.cudaStreamNonBlocking
        stream = check_cuda(self.cudart.cudaStreamCreateWithFlags(flags), "making a stream")
        self._made.callback(self.cudart.cudaStreamDestroy, stream)
        return stream

    def make_event(self) -> Any:
        """Return an event that orders streams; it takes no times."""
        flags = self.cudart.cudaEventDisableTiming
        event = check_cuda(self.cudart.cudaEventCreateWithFlags(flags), "making an event")
        self._made.callback(self.cudart.cudaEventDestroy, event)
        return event

    def copy_to_gpu(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array to the GPU, in the order of `stream`."""
        kind = self.cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind, stream)

    def copy_from_gpu(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Copy from the GPU into a contiguous host array, in the order of `stream`."""
        kind = self.cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind, stream)

    def copy_on_gpu(self, target: int, source: int, count: int, stream: Any) -> None:
        """Copy `count` bytes within the GPU, in the order of `stream`."""
        kind = self.cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target, source, count, kind, stream)

    def record(self, event: Any, stream: Any) -> None:
        """Let `event` happen once all that `stream` holds by now is done."""
        check_cuda(self.cudart.cudaEventRecord(event, stream), "recording an event")

    def wait(self, stream: Any, event: Any) -> None:
        """Let what `stream` gets from now on wait for `event`; the CPU does not wait."""
        check_cuda(self.cudart.cudaStreamWaitEvent(stream, event, 0), "waiting for an event")

    def finish(self, stream: Any, what: str) -> None:
        """Wait until all that `stream` holds is done.

        Raises:
            GpuError: if some of it failed.
        """
        check_cuda(self.cudart.cudaStreamSynchronize(stream), what)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self._made.close()

    def _copy(self, target: int, source: int, count: int, kind: Any, stream: Any) -> None:
        result = self.cudart.cudaMemcpyAsync(target, source, count, kind, stream)
        check_cuda(result, f"copying {count} bytes ({kind.name})")


def reserve_memory(cudart: ModuleType, count: int, what: str) -> int:
    """Return the address of `count` bytes on the GPU chosen last, aligned to 256.

    Raises:
        GpuOutOfMemoryError: naming `what`, the MiB needed and those free.
    """
    try:
        return int(check_cuda(cudart.cudaMalloc(count), f"reserving {what}"))
    except GpuOutOfMemoryError:
        cudart.cudaGetLastError()  # or the next call that looks would find it
        raise out_of_memory(cudart, what, count) from None
