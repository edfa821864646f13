"""Overlapping copies, on a CUDA that runs its streams as unfavourably as their order allows.

Every call is only queued, as on a GPU, and runs when somebody waits: streams in a given order of
preference, each as far as the events that it waits for let it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from itertools import permutations
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engines.cuda_buffers import BatchBuffers
from engines.cuda_resources import CudaResources
from engines.trt_instance import TrtInstance, choose_profile
from engines.trt_stream import BatchStream
from export.manifest import TensorSpec

runtime = pytest.importorskip("cuda.bindings.runtime", reason="the names and errors of CUDA")
INPUT = TensorSpec("image", "uint8", ("batch", 2, 3, 3))
OUTPUT = TensorSpec("labels", "int32", ("batch", 2, 3))
Operation = Callable[[], bool]


class QueuedCuda:
    """The CUDA runtime on host memory; an operation returns whether it could run."""

    cudaMemcpyKind = runtime.cudaMemcpyKind  # noqa: N815
    cudaHostAllocDefault = cudaStreamNonBlocking = cudaEventDisableTiming = 0  # noqa: N815

    def __init__(self, preference: tuple[int, ...]) -> None:
        # One stream that computes, then a pair that copies for every stream of batches.
        self.queues = [deque[Operation]() for _ in range(9)]
        kinds = [0, *(1, 2) * 4]
        self.preference = sorted(range(9), key=lambda stream: preference.index(kinds[stream]))
        self.made = 0
        self.happened, self.freed = dict[int, int](), list[int]()
        self.recorded = dict[int, int]()
        self.memory = dict[int, Any]()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *_: (runtime.cudaError_t.cudaSuccess, None)

    def cudaMalloc(self, count: int) -> tuple[Any, int]:  # noqa: N802
        memory = ctypes.create_string_buffer(b"\xee" * count, count)
        self.memory[ctypes.addressof(memory)] = memory
        return runtime.cudaError_t.cudaSuccess, ctypes.addressof(memory)

    def cudaHostAlloc(self, count: int, _: int) -> tuple[Any, int]:  # noqa: N802
        return self.cudaMalloc(count)

    def cudaFree(self, address: int) -> tuple[Any]:  # noqa: N802
        self.freed.append(address)
        return (runtime.cudaError_t.cudaSuccess,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaStreamCreateWithFlags(self, _: int) -> tuple[Any, int]:  # noqa: N802
        self.made += 1
        return runtime.cudaError_t.cudaSuccess, self.made - 1

    def cudaEventCreateWithFlags(self, _: int) -> tuple[Any, int]:  # noqa: N802
        event = len(self.recorded) + 100
        self.recorded[event] = self.happened[event] = 0
        return runtime.cudaError_t.cudaSuccess, event

    def cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, count: int, _: Any, stream: int
    ) -> tuple[Any]:
        def copy() -> bool:
            ctypes.memmove(target, source, count)
            return True

        return self.queue(stream, copy)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]:  # noqa: N802
        self.recorded[event] += 1
        number = self.recorded[event]

        def record() -> bool:
            self.happened[event] = number
            return True

        return self.queue(stream, record)

    def cudaStreamWaitEvent(self, stream: int, event: int, _: int) -> tuple[Any]:  # noqa: N802
        number = self.recorded[event]
        return self.queue(stream, lambda: self.happened[event] >= number)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:  # noqa: N802
        number = self.recorded[event]
        while self.happened[event] < number:
            self.step()
        return (runtime.cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:  # noqa: N802
        while self.queues[stream]:
            self.step()
        return (runtime.cudaError_t.cudaSuccess,)

    def queue(self, stream: int, operation: Operation) -> tuple[Any]:
        self.queues[stream].append(operation)
        return (runtime.cudaError_t.cudaSuccess,)

    def step(self) -> None:
        """Run one operation, of the most preferred stream that can."""
        for stream in self.preference:
            if self.queues[stream] and self.queues[stream][0]():
                self.queues[stream].popleft()
                return
        raise AssertionError("every stream waits for another")


class AddingInstance:
    """What a stream uses of an instance; its engine adds the channels of each pixel."""

    def __init__(self, cudart: QueuedCuda) -> None:
        self.cuda = CudaResources(cast(ModuleType, cudart), 0)
        self.compute = self.cuda.make_stream()
        self.buffers = BatchBuffers(self.cuda, INPUT, OUTPUT, 3)
        self.loaded = SimpleNamespace(input=INPUT, output=OUTPUT, batch=(1, 2, 3))
        self.cudart, self.failing, self.is_closed = cudart, False, False
        self._idle_streams = list[BatchStream]()

    def launch(self, count: int, source: int, target: int) -> None:
        if self.failing:
            raise RuntimeError("the engine did not run")

        def add() -> bool:
            images = (ctypes.c_uint8 * (count * 18)).from_address(source)
            labels = (ctypes.c_int32 * (count * 6)).from_address(target)
            pixels = np.ctypeslib.as_array(images).reshape(-1, 3)
            np.ctypeslib.as_array(labels)[:] = pixels.sum(axis=1, dtype=np.int32)
            return True

        self.cudart.queue(self.compute, add)


def make(preference: tuple[int, ...]) -> tuple[AddingInstance, BatchStream]:
    instance = AddingInstance(QueuedCuda(preference))
    return instance, BatchStream(cast(TrtInstance, instance))


def batches(count: int) -> list[np.ndarray]:
    noise = np.random.default_rng(3)
    return [noise.integers(0, 256, (1 + k % 3, 2, 3, 3), np.uint8) for k in range(count)]


ORDERS = list(permutations(range(3)))


@pytest.mark.parametrize("preference", ORDERS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_output_is_that_of_its_batch(preference: tuple[int, ...], count: int) -> None:
    _, stream = make(preference)
    images = batches(count)
    got = list(stream.run(iter(images)))
    assert [len(labels) for labels in got] == [len(batch) for batch in images]
    for labels, batch in zip(got, images, strict=True):
        assert np.array_equal(labels, batch.sum(axis=3, dtype=np.int32))


def test_two_batches_are_under_way_before_the_first_is_waited_for() -> None:
    instance, stream = make((0, 1, 2))
    fetched = list[int]()

    def fetch() -> Iterator[np.ndarray]:
        for index, batch in enumerate(batches(4)):
            fetched.append(index)
            yield batch

    outputs = stream.run(fetch())
    next(outputs)
    assert fetched == [0, 1, 2]
    assert any(instance.cudart.queues)  # the third is queued and has not been waited for


def test_the_caller_may_reuse_a_batch_s_memory_at_once() -> None:
    _, stream = make((2, 1, 0))
    expected = [batch.sum(axis=3, dtype=np.int32) for batch in batches(5)]

    def refill() -> Iterator[np.ndarray]:
        memory = np.empty((3, 2, 3, 3), np.uint8)
        for batch in batches(5):
            memory[: len(batch)] = batch
            yield memory[: len(batch)]

    for got, wanted in zip(stream.run(refill()), expected, strict=True):
        assert np.array_equal(got, wanted)


def test_a_stream_left_early_leaves_nothing_under_way() -> None:
    instance, stream = make((1, 0, 2))
    outputs = stream.run(iter(batches(5)))
    next(outputs)
    outputs.close()
    assert not any(instance.cudart.queues)
    assert len(list(stream.run(iter(batches(3))))) == 3


def test_a_stream_left_behind_touches_nothing_that_was_freed() -> None:
    instance, stream = make((0, 1, 2))
    outputs = stream.run(iter(batches(5)))
    next(outputs)
    instance.is_closed = True
    instance.cuda.close()
    instance.cudart.queues.clear()  # waiting for a stream that is gone would be an error
    outputs.close()


@pytest.mark.parametrize("preference", ORDERS)
def test_streams_and_calls_beside_them_do_not_mix(preference: tuple[int, ...]) -> None:
    instance, _ = make(preference)
    as_instance = cast(TrtInstance, instance)
    images = batches(6)
    expected = [batch.sum(axis=3, dtype=np.int32) for batch in images]
    streams = [TrtInstance.stream(as_instance, iter(images[k:])) for k in range(3)]
    for step in range(3):
        for k, outputs in enumerate(streams):
            assert np.array_equal(next(outputs), expected[k + step])
            called = TrtInstance.run(as_instance, images[5 - step], None)
            assert np.array_equal(called, expected[5 - step])
    for outputs in streams:
        outputs.close()
    assert not any(instance.cudart.queues)
    reserved = len(instance.cudart.memory)
    again = TrtInstance.stream(as_instance, iter(images))
    assert all(np.array_equal(*pair) for pair in zip(again, expected, strict=True))
    assert len(instance.cudart.memory) == reserved  # a later stream takes an earlier one's


def test_closing_while_a_batch_is_fetched_touches_nothing_that_was_freed() -> None:
    instance, stream = make((0, 1, 2))

    def fetch() -> Iterator[np.ndarray]:
        yield batches(1)[0]
        instance.is_closed = True
        instance.cuda.close()
        instance.cudart.queues.clear()  # waiting for a stream that is gone would be an error
        raise ValueError("the runtime is closed")

    with pytest.raises(ValueError, match="the runtime is closed"):
        list(stream.run(fetch()))


def test_an_error_of_the_batches_comes_in_its_place() -> None:
    _, stream = make((2, 0, 1))
    images = batches(3)

    def unreadable() -> Iterator[np.ndarray]:
        yield from images
        raise OSError("no fourth batch")

    outputs = stream.run(unreadable())
    for batch in images:
        assert np.array_equal(next(outputs), batch.sum(axis=3, dtype=np.int32))
    with pytest.raises(OSError, match="no fourth batch"):
        next(outputs)


def test_after_a_failure_the_next_stream_works() -> None:
    instance, stream = make((0, 2, 1))
    instance.failing = True
    with pytest.raises(RuntimeError, match="the engine did not run"):
        list(stream.run(iter(batches(3))))
    instance.failing = False
    assert not any(instance.cudart.queues)
    images = batches(3)
    got = list(stream.run(iter(images)))
    assert np.array_equal(got[0], images[0].sum(axis=3, dtype=np.int32))


def test_all_memory_is_freed_once() -> None:
    instance, _ = make((0, 1, 2))
    instance.cuda.close()
    instance.cuda.close()
    assert sorted(instance.cudart.freed) == sorted(instance.cudart.memory)


@pytest.mark.parametrize(("count", "profile"), [(1, 0), (2, 1), (4, 1), (5, 2), (8, 2)])
def test_the_tightest_profile_that_holds_a_batch_is_taken(count: int, profile: int) -> None:
    assert choose_profile(((1, 1), (1, 4), (1, 8)), count) == profile


def test_a_batch_between_profiles_is_refused() -> None:
    with pytest.raises(ValueError, match="profile takes 6 at once, only 1 to 4, 8 to 8"):
        choose_profile(((1, 4), (8, 8)), 6)
