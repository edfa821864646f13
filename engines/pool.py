"""A loaded engine and the instances that run it: lent to one call at a time, taken back, closed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any, Protocol

from engines.arrays import Output
from engines.target import Target

CLOSED = "the runtime is closed; open it again with open_runtime"


class Instance(Protocol):
    """What runs an engine, with memory of its own; used by one thread at a time."""

    def view(self, array: object, name: str) -> Any:
        """Return the caller's images or output as `run` takes them, where they lie.

        What comes back has `shape` and a numpy `dtype`.

        Raises:
            ValueError: if it is nothing that can be read or written without a copy; the message
                begins with `name`, which is `images` or `out`.
        """
        ...

    def run(self, images: Any, out: Any | None) -> Output:
        """Write the output of `images` to `out` (None: to a new array), and return where it is.

        Both are what `view` gave, shapes and dtypes checked; host images may have any strides.
        Whatever it raises, the next call works.
        """
        ...


class StreamingInstance(Instance, Protocol):
    """An instance in which the copies of one batch overlap with the computation of the next."""

    def stream(self, batches: Iterable[Any]) -> Generator[Output]:
        """Yield the output of each batch (what `view` gave, checked), in order."""
        ...


class Engine(Protocol):
    """An engine in memory; where it `streams`, its instances are `StreamingInstance`s."""

    target: Target
    streams: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know and need not act on."""
        ...

    def make_instance(self) -> Instance:
        """Return one more instance; it lives as long as the engine."""
        ...

    def close(self) -> None:
        """Free the engine and its instances, none of which runs."""
        ...


class InstancePool:
    """As many calls at once as there are instances; others wait.

    A call that was admitted is always served: `close` waits for it.

    Args:
        engine: closed with the pool, and if an instance cannot be made.
        count: instances.

    Raises:
        ValueError: if `count` is not positive.
    """

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine, self._count = engine, count
        self._free: LifoQueue[Instance] = LifoQueue()  # the one used last has its memory in cache
        self._idle, self._gathering = threading.Condition(), threading.Lock()
        self._calls, self._closed = 0, False
        try:
            if count < 1:
                raise ValueError(f"instances: expected at least 1, got {count}")
            for _ in range(count):
                self._free.put(engine.make_instance())
        except BaseException:
            engine.close()
            raise

    def enter(self) -> None:
        """Admit a call, which `leave` ends.

        Raises:
            ValueError: if the pool is closed.
        """
        with self._idle:
            if self._closed:
                raise ValueError(CLOSED)
            self._calls += 1

    def leave(self) -> None:
        """End a call."""
        with self._idle:
            self._calls -= 1
            self._idle.notify_all()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admit a call for as long as the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def lend(self) -> Iterator[Instance]:
        """Lend an admitted call the first instance that is free."""
        instance = self.take()
        try:
            yield instance
        finally:
            self.give_back(instance)

    def take(self) -> Instance:
        """Return the first instance that is free to an admitted call."""
        return self._free.get()

    def give_back(self, instance: Instance) -> None:
        """Let others have what `take` returned."""
        self._free.put(instance)

    @contextmanager
    def lend_all(self) -> Iterator[Sequence[Instance]]:
        """Lend an admitted call every instance, once all are free."""
        lent: list[Instance] = []
        with self._gathering:  # two callers with half the instances each would wait for ever
            try:
                while len(lent) < self._count:
                    lent.append(self._free.get())
                yield lent
            finally:
                for instance in lent:
                    self._free.put(instance)

    def close(self) -> None:
        """Admit no more calls, wait for those admitted, free the engine; then do nothing."""
        with self._idle:
            first, self._closed = not self._closed, True
            self._idle.wait_for(lambda: not self._calls)
            if first:
                self._free = LifoQueue()  # instances hold on to what the engine frees
                self._engine.close()
