"""Arrays that are on a GPU already, seen where they lie: DLPack and `__cuda_array_interface__`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from engines.cuda_resources import CudaResources
from engines.gpu import check_cuda

# TensorRT binds tensors at such addresses alone; what cudaMalloc gives always is one.
ALIGNMENT = 256
_DLPACK_CUDA = (2, 13)  # kDLCUDA and kDLCUDAManaged of dlpack.h


@dataclass(frozen=True)
class DeviceView:
    """Somebody's array on a GPU; strides are in elements, None where there are no gaps.

    `owner` keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    strides: tuple[int, ...] | None
    readonly: bool
    owner: object


def is_device_array(array: object) -> bool:
    """Return whether an array lies on an NVIDIA GPU, as far as it says itself."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] in _DLPACK_CUDA


def view_device_array(array: Any, name: str, cuda: CudaResources, stream: Any) -> DeviceView:
    """Return where an array is that an engine can use there.

    `stream` is ordered behind whoever still works on it. DLPack is asked first: PyTorch's
    `__cuda_array_interface__` names no stream to wait for.

    Args:
        array: an object for which `is_device_array` holds.
        name: `images`, or `out`, which is written to.
        cuda: of the GPU that will use it.
        stream: the stream that will use it.

    Raises:
        ValueError: beginning with `name`, if the object does not keep to its protocol, lies on
            another GPU, has gaps, or may not be written.
        ImportError: if cuda-core, which reads DLPack, is not installed.
    """
    try:
        if hasattr(array, "__dlpack_device__"):
            view = _view_dlpack(array, stream)
        else:
            view = _view_interface(array, name, cuda)
    except (AttributeError, BufferError, KeyError, TypeError) as error:
        kind = type(array).__name__
        raise ValueError(f"{name}: an array of {kind} cannot be read: {error!r}") from error
    _check_place(view, name, cuda.device)
    return view


def _check_place(view: DeviceView, name: str, device: int) -> None:
    """Refuse an array that TensorRT cannot be bound to; shape and type are checked elsewhere."""
    if view.device != device:
        raise ValueError(
            f"{name}: expected memory of GPU {device}, got that of GPU {view.device}; copy it, or "
            f"open the runtime with device={view.device}"
        )
    if not _is_contiguous(view):
        raise ValueError(
            f"{name}: expected a contiguous array, got strides {view.strides}; copy it"
        )
    if view.address % ALIGNMENT:
        raise ValueError(
            f"{name}: expected an address aligned to {ALIGNMENT} bytes, got {view.address:#x}; "
            "a part of a larger array has to be copied"
        )
    if name == "out" and view.readonly:
        raise ValueError("out: expected memory that can be written to, got a read-only array")


def _view_dlpack(array: Any, stream: Any) -> DeviceView:
    """Let cuda.core read the capsule; the producer makes `stream` wait for itself."""
    try:
        memory_view = import_module("cuda.core.utils").StridedMemoryView
    except ImportError as error:
        raise ImportError(
            "cuda-core, which reads DLPack, is not installed; install it with: "
            "pip install cuda-core"
        ) from error
    view = memory_view.from_dlpack(array, stream_ptr=int(stream))
    return DeviceView(
        address=int(view.ptr),
        shape=tuple(view.shape),
        dtype=np.dtype(view.dtype),
        device=int(array.__dlpack_device__()[1]),
        strides=None if view.strides is None else tuple(view.strides),
        readonly=bool(view.readonly),
        owner=view,
    )


def _view_interface(array: Any, name: str, cuda: CudaResources) -> DeviceView:
    found = array.__cuda_array_interface__
    dtype, (address, readonly) = np.dtype(found["typestr"]), found["data"]
    producer, strides = found.get("stream"), found.get("strides")
    if producer == 0:
        raise ValueError(f"{name}: expected no stream, 1, 2 or an address, got 0")
    if producer is not None:
        cuda.finish(int(producer), "finishing the work on an array")
    return DeviceView(
        address=int(address),
        shape=tuple(found["shape"]),
        dtype=dtype,
        device=_find_device(int(address), name, cuda),
        strides=None if strides is None else tuple(step // dtype.itemsize for step in strides),
        readonly=bool(readonly),
        owner=array,
    )


def _find_device(address: int, name: str, cuda: CudaResources) -> int:
    """Return the number of the GPU that an address is on."""
    found = check_cuda(cuda.cudart.cudaPointerGetAttributes(address), f"asking for {address:#x}")
    memory_types = cuda.cudart.cudaMemoryType
    on_gpu = (memory_types.cudaMemoryTypeDevice, memory_types.cudaMemoryTypeManaged)
    if found.type not in on_gpu:
        raise ValueError(f"{name}: expected memory of a GPU, {address:#x} is {found.type.name}")
    return int(found.device)


def _is_contiguous(view: DeviceView) -> bool:
    """Return whether an array lies in C order without gaps; the stride of one item is nothing."""
    if view.strides is None:
        return True
    dense = [prod(view.shape[axis + 1 :]) for axis in range(len(view.shape))]
    return all(
        size == 1 or step == expected
        for size, step, expected in zip(view.shape, view.strides, dense, strict=True)
    )
