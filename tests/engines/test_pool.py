"""The pool and the runtime over it, on an engine whose calls the tests hold up and let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from engines.arrays import Images, Output, view_array
from engines.runtime import Runtime
from engines.target import Target
from tests.engines.conftest import describe

SECONDS = 30  # before a test that hangs fails
CLOSED = "the runtime is closed; open it again with open_runtime"


@dataclass
class FakeEngine:
    """Labels are the first image's first pixel; `hold` makes calls wait until `go`."""

    target = Target.ORT
    streams: bool = False
    notes: tuple[str, ...] = ("note",)
    hold: bool = False
    go: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    instances: list[FakeInstance] = field(default_factory=list)
    most: int = 100
    during: Callable[[], None] = lambda: None
    closed: int = 0

    def make_instance(self) -> FakeInstance:
        if len(self.instances) == self.most:
            raise RuntimeError("out of memory")
        self.instances.append(FakeInstance(self))
        return self.instances[-1]

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakeInstance:
    engine: FakeEngine
    calls: int = 0
    streamed: int = 0
    ended: int = 0
    busy: bool = False

    def view(self, array: object, name: str) -> Any:
        return view_array(array, name)

    def stream(self, batches: Iterable[Images]) -> Iterator[Output]:
        try:
            for images in batches:
                self.streamed += 1
                yield self.run(images, None)
        finally:
            self.ended += 1

    def run(self, images: Images, out: Output | None) -> Output:
        assert not self.busy, "two calls on one instance"
        assert not self.engine.closed
        self.busy = True
        self.calls += 1
        self.engine.started.release()
        self.engine.during()
        try:
            if self.engine.hold:
                assert self.engine.go.wait(SECONDS)
            if images[0, 0, 0, 0] == 255:
                raise RuntimeError("the engine failed")
            result = np.empty(images.shape[:3], np.uint8) if out is None else out
            result[:] = images[0, 0, 0, 0]
            return result
        finally:
            self.busy = False


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine that lets go of whatever it holds when the test ends."""
    engine = FakeEngine()
    yield engine
    engine.go.set()


def image(value: int) -> Images:
    return np.full((1, 64, 64, 3), value, np.uint8)


def start(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def wait_started(engine: FakeEngine, calls: int) -> None:
    for _ in range(calls):
        assert engine.started.acquire(timeout=SECONDS)


def join(thread: threading.Thread) -> None:
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_as_many_calls_at_once_as_instances(engine: FakeEngine) -> None:
    engine.hold = True
    with Runtime(engine, describe(), instances=2) as runtime:
        futures = [runtime.infer_async(image(value)) for value in range(4)]
        synchronous = start(lambda: runtime.infer(image(9)))
        wait_started(engine, 2)
        assert not engine.started.acquire(timeout=0.05)
        assert [instance.busy for instance in engine.instances] == [True, True]
        engine.go.set()
        assert [future.result(SECONDS)[0, 0, 0] for future in futures] == [0, 1, 2, 3]
        join(synchronous)
    assert sum(instance.calls for instance in engine.instances) == 5


def test_many_threads_get_their_own_labels(engine: FakeEngine) -> None:
    wrong: list[int] = []
    with Runtime(engine, describe(), instances=3) as runtime:

        def work(value: int) -> None:
            out = np.empty((1, 64, 64), np.uint8)
            for _ in range(50):
                if not (runtime.infer(image(value), out) == value).all():
                    wrong.append(value)

        threads = [start(lambda value=value: work(value)) for value in range(8)]  # type: ignore[misc]
        for thread in threads:
            join(thread)
    assert not wrong
    assert sum(instance.calls for instance in engine.instances) == 400


def test_close_waits_for_all_that_was_accepted_and_refuses_the_rest(engine: FakeEngine) -> None:
    engine.hold = True
    runtime = Runtime(engine, describe())
    futures = [runtime.infer_async(image(value)) for value in (1, 2)]
    wait_started(engine, 1)
    closing = [start(runtime.close) for _ in range(2)]
    closing[0].join(0.05)
    assert closing[0].is_alive()
    assert not engine.closed
    # Refused at once, though the engine is still there.
    refused: Future[Output] = runtime.infer_async(image(3))
    while not refused.done():  # admitted before close began
        futures.append(refused)
        refused = runtime.infer_async(image(3))
    with pytest.raises(ValueError, match=CLOSED):
        refused.result(SECONDS)
    for call in (
        lambda: runtime.infer(image(4)),
        runtime.warm_up,
        lambda: list(runtime.stream([image(4)])),
    ):
        with pytest.raises(ValueError, match=CLOSED):
            call()
    engine.go.set()
    for thread in closing:
        join(thread)
    assert engine.closed == 1
    assert [future.result(SECONDS)[0, 0, 0] for future in futures[:2]] == [1, 2]
    runtime.close()
    assert engine.closed == 1


def test_a_cancelled_call_holds_nothing_up(engine: FakeEngine) -> None:
    engine.hold = True
    runtime = Runtime(engine, describe())
    first, second = (runtime.infer_async(image(value)) for value in (1, 2))
    wait_started(engine, 1)
    assert second.cancel()
    engine.go.set()
    join(start(runtime.close))
    assert first.result(SECONDS)[0, 0, 0] == 1
    assert engine.instances[0].calls == 1


def test_a_done_callback_may_close_the_runtime(engine: FakeEngine) -> None:
    runtime, closed = Runtime(engine, describe()), threading.Event()

    def close(_: object) -> None:
        runtime.close()
        closed.set()

    runtime.infer_async(image(1)).add_done_callback(close)
    assert closed.wait(SECONDS)
    assert engine.closed == 1


def test_a_failed_call_leaves_its_instance_usable(engine: FakeEngine) -> None:
    with Runtime(engine, describe()) as runtime:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="the engine failed"):
                runtime.infer(image(255))
        with pytest.raises(RuntimeError, match="the engine failed"):
            runtime.infer_async(image(255)).result(SECONDS)
        with pytest.raises(ValueError, match="expected a uint8 array"):
            runtime.infer_async(image(1).tolist()).result(SECONDS)
        assert runtime.infer(image(7))[0, 0, 0] == 7


def test_out_is_written_to_and_returned(engine: FakeEngine) -> None:
    out = np.zeros((1, 64, 64), np.uint8)
    with Runtime(engine, describe()) as runtime:
        assert runtime.infer(image(3), out) is out
    assert (out == 3).all()


def test_a_stream_fetches_ahead_and_keeps_the_order(engine: FakeEngine) -> None:
    engine.hold = True
    fetched: list[int] = []

    def batches() -> Iterator[Images]:
        for value in range(6):
            fetched.append(value)
            if value == 2:  # both instances compute while the third batch is fetched
                wait_started(engine, 2)
                engine.go.set()
            yield image(value)

    with Runtime(engine, describe(), instances=2) as runtime:
        outputs = runtime.stream(batches())
        assert next(outputs)[0, 0, 0] == 0
        assert fetched == [0, 1, 2]
        assert [output[0, 0, 0] for output in outputs] == [1, 2, 3, 4, 5]
        assert list(runtime.stream([])) == []


def test_an_engine_that_streams_does_it_itself(engine: FakeEngine) -> None:
    engine.streams = True
    with Runtime(engine, describe()) as runtime:
        outputs = runtime.stream(image(value) for value in range(3))
        assert [output[0, 0, 0] for output in outputs] == [0, 1, 2]
        assert engine.instances[0].streamed == 3
        with pytest.raises(ValueError, match="expected a batch of 1, got 0"):
            list(runtime.stream([image(2)[:0]]))
        assert runtime.infer(image(4))[0, 0, 0] == 4  # the instance came back
        outputs = runtime.stream(image(value) for value in range(3))
        assert next(outputs)[0, 0, 0] == 0
        del outputs
        assert runtime.infer(image(5))[0, 0, 0] == 5
        left_early = runtime.stream(image(value) for value in range(3))
        assert next(left_early)[0, 0, 0] == 0
    with pytest.raises(ValueError, match=CLOSED):
        next(left_early)


def test_an_error_in_a_stream_comes_in_its_place(engine: FakeEngine) -> None:
    def unreadable() -> Iterator[Images]:
        yield image(1)
        yield image(2)
        raise OSError("no third image")

    def read(batches: Iterable[Images], got: list[int]) -> None:
        for output in runtime.stream(batches):
            got.append(int(output[0, 0, 0]))

    before_source: list[int] = []
    before_call: list[int] = []
    with Runtime(engine, describe()) as runtime:
        with pytest.raises(OSError, match="no third image"):
            read(unreadable(), before_source)
        with pytest.raises(ValueError, match="expected a batch of 1, got 0"):
            read([image(1), image(2)[:0], image(3)], before_call)
        assert (before_source, before_call) == ([1, 2], [1])
        assert runtime.infer(image(4))[0, 0, 0] == 4


def test_a_stream_left_early_does_not_hold_up_close(engine: FakeEngine) -> None:
    runtime = Runtime(engine, describe())
    outputs = runtime.stream(image(value) for value in range(100))
    assert next(outputs)[0, 0, 0] == 0
    join(start(runtime.close))
    assert engine.closed == 1
    assert [output[0, 0, 0] for output in (next(outputs),)] == [1]
    with pytest.raises(ValueError, match=CLOSED):
        next(outputs)


def test_warm_up_runs_every_instance(engine: FakeEngine) -> None:
    with Runtime(engine, describe(), instances=3) as runtime:
        runtime.warm_up(calls=2)
        assert [instance.calls for instance in engine.instances] == [2, 2, 2]
        threads = [start(runtime.warm_up) for _ in range(4)]  # none waits for another for ever
        for thread in threads:
            join(thread)
        assert [instance.calls for instance in engine.instances] == [10, 10, 10]
        with pytest.raises(ValueError, match="calls: expected at least 1, got 0"):
            runtime.warm_up(0)


def test_an_instance_that_cannot_be_made_frees_the_engine(engine: FakeEngine) -> None:
    engine.most = 1
    with pytest.raises(RuntimeError, match="out of memory"):
        Runtime(engine, describe(), instances=2)
    assert engine.closed == 1
    with pytest.raises(ValueError, match="instances: expected at least 1, got 0"):
        Runtime(FakeEngine(), describe(), instances=0)


def test_notes_are_the_openers_and_the_engines(engine: FakeEngine) -> None:
    with Runtime(engine, describe(), notes=("trt: not built",)) as runtime:
        assert runtime.notes == ("trt: not built", "note")
