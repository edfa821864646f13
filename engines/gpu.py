"""The NVIDIA GPU of this machine, through cuda-python; every call's status is checked."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class GpuError(RuntimeError):
    """A CUDA call that failed, or a machine without a usable GPU."""


class GpuOutOfMemoryError(GpuError):
    """Memory that a GPU did not have; whatever was running before still is."""


def import_cudart() -> ModuleType:
    """Return the CUDA runtime bindings of cuda-python.

    Raises:
        ImportError: if cuda-python is not installed; the message says how to.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise ImportError(
            "cuda-python is not installed; install it with: pip install cuda-python"
        ) from error


def check_cuda(result: tuple[Any, ...], what: str) -> Any:
    """Return the value of a CUDA runtime call `(status, value…)`; None when it has none.

    Raises:
        GpuOutOfMemoryError: if memory ran out.
        GpuError: if the status is not success; `what` says what was tried.
    """
    status, *values = result
    if int(status) != 0:
        name = getattr(status, "name", str(status))
        kind = GpuOutOfMemoryError if name == "cudaErrorMemoryAllocation" else GpuError
        raise kind(f"{what} failed: {name}")
    return values[0] if values else None


def free_memory(cudart: ModuleType) -> tuple[int, int]:
    """Return the bytes that are free on the GPU chosen last, and those that it has."""
    status, free, total = cudart.cudaMemGetInfo()
    check_cuda((status,), "asking for free GPU memory")
    return int(free), int(total)


def out_of_memory(cudart: ModuleType, what: str, count: int) -> GpuOutOfMemoryError:
    """Return the error of `count` bytes that the GPU chosen last does not have."""
    free, total = free_memory(cudart)
    return GpuOutOfMemoryError(
        f"{what} takes {to_mib(count)} MiB of GPU memory, {to_mib(free)} of {to_mib(total)} MiB "
        "are free; free some, open fewer instances, or build with a smaller --batch or with "
        "--tail-strips 4"
    )


def to_mib(count: int) -> int:
    """Return bytes in MiB, rounded up."""
    return -(-count // 2**20)


def missing_gpu_reason(need: str) -> str | None:
    """Return why no GPU can be used here, after the sentence `need`; None if one can."""
    try:
        cudart = import_cudart()
    except ImportError as error:
        return f"{need}: {error}"
    try:
        count = check_cuda(cudart.cudaGetDeviceCount(), "counting GPUs")
    except (GpuError, RuntimeError) as error:
        # RuntimeError: cuda-python found no driver library to load.
        return f"{need}, and this machine has none in working order ({error})"
    return None if count else f"{need}, and this machine has none"


def find_compute_capability(device: int = 0) -> str:
    """Return the compute capability of GPU number `device` as `SM89`.

    Raises:
        GpuError: if there is no such GPU.
        ImportError: if cuda-python is not installed.
    """
    cudart = import_cudart()
    attributes = cudart.cudaDeviceAttr
    major, minor = (
        check_cuda(cudart.cudaDeviceGetAttribute(attribute, device), f"asking GPU {device}")
        for attribute in (
            attributes.cudaDevAttrComputeCapabilityMajor,
            attributes.cudaDevAttrComputeCapabilityMinor,
        )
    )
    return f"SM{major}{minor}"
