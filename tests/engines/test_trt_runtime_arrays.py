"""Arrays on a GPU, as far as they can be looked at without one.

Memory is the host's; the objects around it say that it is a GPU's, by both protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engines.cuda_arrays import is_device_array, view_device_array
from engines.cuda_resources import CudaResources

pytest.importorskip("cuda.core", reason="cuda-core reads DLPack")
STREAM = 5


class DlpackArray:
    """NumPy's capsule from a producer that claims GPU 0."""

    def __init__(self, array: np.ndarray, device: int = 0, kind: int = 2) -> None:
        self._array, self._where = array, (kind, device)
        self.requested: dict[str, Any] = {}

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._where

    def __dlpack__(self, **request: Any) -> object:
        self.requested = request
        return self._array.__dlpack__(max_version=request.get("max_version"))


class InterfaceArray:
    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self._kept = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 3,
            **changes,
        }


class Cuda:
    """What is asked of CUDA on the way: whose an address is, and to wait for a stream."""

    def __init__(self, kind: str = "Device", owner: int = 0) -> None:
        from cuda.bindings import runtime

        found = getattr(runtime.cudaMemoryType, f"cudaMemoryType{kind}")
        answer = runtime.cudaError_t.cudaSuccess, SimpleNamespace(type=found, device=owner)
        self.cudart = SimpleNamespace(
            cudaMemoryType=runtime.cudaMemoryType, cudaPointerGetAttributes=lambda _: answer
        )
        self.device, self.waited = 0, list[int]()

    def finish(self, stream: int, _: str) -> None:
        self.waited.append(stream)


def view(array: object, name: str = "images", cuda: Cuda | None = None) -> Any:
    return view_device_array(array, name, cast(CudaResources, cuda or Cuda()), STREAM)


def aligned(offset: int = 0) -> np.ndarray:
    """Two images of 4 x 6 pixels, `offset` bytes behind an address that TensorRT takes."""
    memory = np.zeros(2 * 4 * 6 * 3 + 512, np.uint8)
    start = -memory.ctypes.data % 256 + offset
    return memory[start : start + 144].reshape(2, 4, 6, 3)


def test_arrays_on_a_gpu_are_told_from_others() -> None:
    array = aligned()
    assert is_device_array(DlpackArray(array))
    assert is_device_array(InterfaceArray(array))
    assert not is_device_array(array)
    assert not is_device_array(DlpackArray(array, kind=1))
    assert not is_device_array(array.tolist())


@pytest.mark.parametrize("wrap", [DlpackArray, InterfaceArray])
def test_an_array_is_used_where_it_lies(wrap: Callable[[np.ndarray], object]) -> None:
    array = aligned()
    found = view(wrap(array))
    assert found.address == array.ctypes.data
    assert found.shape == (2, 4, 6, 3)
    assert found.dtype == np.uint8
    assert found.device == 0


def test_a_dlpack_producer_is_given_the_engine_s_stream() -> None:
    array = DlpackArray(aligned())
    view(array)
    assert array.requested["stream"] == STREAM


def test_the_stream_that_an_interface_names_is_waited_for() -> None:
    cuda = Cuda()
    view(InterfaceArray(aligned(), stream=None), cuda=cuda)
    assert cuda.waited == []
    view(InterfaceArray(aligned(), stream=1), cuda=cuda)
    assert cuda.waited == [1]


def test_memory_outlives_its_producer() -> None:
    array = aligned()
    found = view(DlpackArray(array))
    assert found.owner is not None


@pytest.mark.parametrize("wrap", [DlpackArray, InterfaceArray])
def test_an_array_with_gaps_is_refused(wrap: Callable[..., object]) -> None:
    part = aligned()[:, :, ::2]
    changes = {"strides": part.strides} if wrap is InterfaceArray else {}
    with pytest.raises(ValueError, match=r"images: expected a contiguous array, got strides \(72,"):
        view(wrap(part, **changes))


@pytest.mark.parametrize("wrap", [DlpackArray, InterfaceArray])
def test_the_stride_of_a_single_image_does_not_matter(wrap: Callable[..., object]) -> None:
    single = aligned()[::2]
    changes = {"strides": single.strides} if wrap is InterfaceArray else {}
    assert view(wrap(single, **changes)).shape == (1, 4, 6, 3)


def test_an_address_that_tensorrt_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aligned to 256 bytes, got 0x.*40; a part of a larger"):
        view(InterfaceArray(aligned(offset=64)))


def test_another_gpu_is_named() -> None:
    message = r"images: expected memory of GPU 0, got that of GPU 1; .* open the runtime with devi"
    with pytest.raises(ValueError, match=message):
        view(DlpackArray(aligned(), device=1))
    with pytest.raises(ValueError, match=message):
        view(InterfaceArray(aligned()), cuda=Cuda(owner=1))


def test_host_memory_behind_the_interface_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images: expected memory of a GPU, 0x.* cudaMemoryTypeH"):
        view(InterfaceArray(aligned()), cuda=Cuda("Host"))
    assert view(InterfaceArray(aligned()), cuda=Cuda("Managed")).device == 0


def test_an_output_has_to_be_writable() -> None:
    array = aligned()
    read_only = InterfaceArray(array, data=(array.ctypes.data, True))
    assert view(read_only).readonly
    with pytest.raises(ValueError, match="out: expected memory that can be written to"):
        view(read_only, "out")


@pytest.mark.parametrize(
    "change", [{"data": 7}, {"typestr": "|x9"}, {"shape": None}, {"stream": 0}]
)
def test_a_broken_interface_is_one_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^images: "):
        view(InterfaceArray(aligned(), **change))


def test_a_producer_that_fails_is_named() -> None:
    class Broken(DlpackArray):
        def __dlpack__(self, **request: Any) -> object:
            raise BufferError("exported already")

    with pytest.raises(ValueError, match=r"out: an array of Broken cannot be read: .*exported a"):
        view(Broken(aligned()), "out")
