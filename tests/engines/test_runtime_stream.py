"""Streams of a `Runtime` and the calls beside them, on the only instance that there is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.arrays import Images, Output
from engines.pool import InstancePool
from engines.runtime import Runtime, open_runtime
from tests.engines.conftest import Writer, describe
from tests.engines.test_bad_input import offer_openvino
from tests.engines.test_pool import CLOSED, SECONDS, FakeEngine, image, join, start

Opener = Callable[[], Runtime]


@pytest.fixture
def engine() -> FakeEngine:
    """A stand-in for an engine on a GPU, whose instances stream by themselves."""
    return FakeEngine(streams=True)


@pytest.fixture(params=["stand-in", "ort", "openvino"])
def opener(request: pytest.FixtureRequest, engine: FakeEngine, artifact: Writer) -> Opener:
    """A function that opens a runtime of one instance."""
    if request.param == "stand-in":
        return lambda: Runtime(engine, describe())
    if request.param == "openvino":
        pytest.importorskip("openvino")
    folder: Path = offer_openvino(artifact())
    return lambda: open_runtime(folder, request.param, threads=1)


def finish(call: Callable[[], object]) -> None:
    """Run a call that must not wait for ever, and raise what it raises."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    join(start(guarded))
    if raised:
        raise raised[0]


def labels_of(runtime: Runtime, values: range) -> list[Output]:
    return [runtime.infer(image(value)) for value in values]


def test_a_thread_may_make_every_call_inside_its_own_stream(opener: Opener) -> None:
    def work() -> None:
        with opener() as runtime:
            expected = labels_of(runtime, range(4))

            def batches() -> Iterator[Images]:
                for value in range(4):
                    assert np.array_equal(runtime.infer(image(value)), expected[value])
                    runtime.warm_up(1)
                    yield image(value)

            for value, output in enumerate(runtime.stream(batches())):
                assert np.array_equal(output, expected[value])
                assert np.array_equal(runtime.infer(image(3)), expected[3])
                future = runtime.infer_async(image(2))
                assert np.array_equal(future.result(SECONDS), expected[2])
                runtime.warm_up(1)

    finish(work)


def test_streams_go_on_side_by_side_and_inside_each_other(opener: Opener) -> None:
    def work() -> None:
        with opener() as runtime:
            expected = labels_of(runtime, range(8))
            first, second = (runtime.stream(map(image, range(k, k + 4))) for k in (0, 4))
            for value, (one, other) in enumerate(zip(first, second, strict=True)):
                assert np.array_equal(one, expected[value])
                assert np.array_equal(other, expected[4 + value])
                inner = runtime.stream(map(image, range(3)))
                assert all(np.array_equal(*pair) for pair in zip(inner, expected, strict=False))

    finish(work)


def test_other_threads_get_their_turn(opener: Opener) -> None:
    wrong: list[int] = []
    with opener() as runtime:
        expected = labels_of(runtime, range(6))

        def infer(value: int) -> None:
            for _ in range(20):
                if not np.array_equal(runtime.infer(image(value)), expected[value]):
                    wrong.append(value)

        def stream(value: int) -> None:
            for output in runtime.stream(image(value) for _ in range(20)):
                if not np.array_equal(output, expected[value]):
                    wrong.append(value)

        works = [infer, stream, infer, stream, stream, infer]
        threads = [start(lambda w=work, v=v: w(v)) for v, work in enumerate(works)]  # type: ignore[misc]
        for thread in threads:
            join(thread)
    assert not wrong


def test_close_waits_for_no_open_stream(opener: Opener) -> None:
    def work() -> None:
        runtime = opener()
        outputs = runtime.stream(map(image, range(100)))
        next(outputs)
        runtime.close()
        with pytest.raises(ValueError, match=CLOSED):
            list(outputs)

    finish(work)


def test_batches_may_close_the_runtime(opener: Opener) -> None:
    def work() -> None:
        runtime = opener()

        def batches() -> Iterator[Images]:
            yield image(0)
            runtime.close()
            yield image(1)

        with pytest.raises(ValueError, match=CLOSED):
            list(runtime.stream(batches()))

    finish(work)


def test_a_stream_waits_for_a_call_of_another_thread(engine: FakeEngine) -> None:
    engine.hold = True
    got: list[Output] = []
    with Runtime(engine, describe()) as runtime:
        calling = start(lambda: runtime.infer(image(1)))
        assert engine.started.acquire(timeout=SECONDS)
        streaming = start(lambda: got.extend(runtime.stream([image(2)])))
        streaming.join(0.05)
        assert streaming.is_alive()
        engine.go.set()
        join(calling)
        join(streaming)
    assert [output[0, 0, 0] for output in got] == [2]


def test_a_slow_source_keeps_nobody_waiting(engine: FakeEngine) -> None:
    fetching, fetched = threading.Event(), threading.Event()

    def batches() -> Iterator[Images]:
        fetching.set()
        assert fetched.wait(SECONDS)
        yield image(1)

    with Runtime(engine, describe()) as runtime:
        streaming = start(lambda: list(runtime.stream(batches())))
        assert fetching.wait(SECONDS)
        finish(lambda: runtime.infer(image(2)))
        fetched.set()
        join(streaming)


def test_streams_are_spread_over_the_instances(engine: FakeEngine) -> None:
    with Runtime(engine, describe(), instances=2) as runtime:
        for _ in range(4):
            assert len(list(runtime.stream([image(1), image(2)]))) == 2
    assert [instance.streamed for instance in engine.instances] == [4, 4]


def test_a_stream_left_early_lets_go_at_once_and_is_ended_by_the_next_call(
    engine: FakeEngine,
) -> None:
    let_go = threading.Event()

    def batches() -> Iterator[Images]:
        try:
            yield from map(image, range(9))
        finally:
            let_go.set()

    def leave() -> None:
        if left:
            left.clear()

    with Runtime(engine, describe()) as runtime:
        left = [runtime.stream(batches())]
        next(left[0])
        # As the garbage collector does it: in the middle of a call on the same instance.
        engine.during = leave
        finish(lambda: runtime.infer(image(1)))
        assert let_go.is_set()
        instance = engine.instances[0]
        assert instance.ended == 0
        runtime.infer(image(1))
        assert instance.ended == 1
        left = [runtime.stream(batches())]
        next(left[0])
        left.clear()
    assert instance.ended == 2


def test_an_instance_is_lent_in_the_order_of_asking() -> None:
    pool, order = InstancePool(FakeEngine(), 2), list[str]()
    held = [pool.take(), pool.take()]

    def ask(name: str, number: int | None) -> None:
        order.append(f"{name}{pool.take(number)}")

    threads = []
    for name, number in (("a", 0), ("b", None), ("c", 0)):
        threads.append(start(lambda n=name, k=number: ask(n, k)))  # type: ignore[misc]
        while len(pool._line) < len(threads):
            threads[-1].join(0.001)
    assert sorted(held) == [0, 1]
    pool.give_back(1)  # passes a by, which wants the other
    join(threads[1])
    pool.give_back(0)
    join(threads[0])
    assert threads[2].is_alive()
    pool.give_back(0)
    join(threads[2])
    assert order == ["b1", "a0", "c0"]
