"""A loaded engine and the instances that run it: lent to one call at a time, taken back, closed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

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
        """Yield the output of each batch (what `view` gave, checked), in order.

        Between two outputs, and while it asks for a batch, `run` may be called and other streams
        may go on.
        """
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
    """As many calls at once as there are instances; others wait, in the order they came.

    A call that was admitted is always served: `close` waits for it. No call waits for an instance
    while it holds another, so none waits for ever.

    Args:
        engine: closed with the pool, and if an instance cannot be made.
        count: instances.

    Raises:
        ValueError: if `count` is not positive.
    """

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._calls, self._closed = 0, False
        self._line: dict[int, int | None] = {}  # who waits: a ticket, and the instance it is for
        self._tickets = itertools.count()
        try:
            if count < 1:
                raise ValueError(f"instances: expected at least 1, got {count}")
            self._instances = [engine.make_instance() for _ in range(count)]
        except BaseException:
            engine.close()
            raise
        self._free = list(range(count))  # the one used last, whose memory is in cache, goes first
        self._left: list[list[Generator[Output]]] = [[] for _ in range(count)]
        self._turns = itertools.cycle(range(count))

    def enter(self) -> None:
        """Admit a call, which `leave` ends.

        Raises:
            ValueError: if the pool is closed.
        """
        with self._changed:
            if self._closed:
                raise ValueError(CLOSED)
            self._calls += 1

    def leave(self) -> None:
        """End a call."""
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admit a call for as long as the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def lend(self, number: int | None = None) -> Iterator[Instance]:
        """Lend an admitted call the first instance that is free, or the one of a number."""
        taken = self.take(number)
        try:
            yield self._instances[taken]
        finally:
            self.give_back(taken)

    def take(self, number: int | None = None) -> int:
        """Return the number of an instance for an admitted call; `give_back` ends that."""
        ticket = next(self._tickets)
        with self._changed:
            self._line[ticket] = number
            try:
                self._changed.wait_for(lambda: self._find_free_for(ticket) is not None)
                taken = cast(int, self._find_free_for(ticket))
                self._free.remove(taken)
            finally:
                del self._line[ticket]
                self._changed.notify_all()
        try:
            while self._left[taken]:
                self._left[taken].pop().close()
        except BaseException:
            self.give_back(taken)
            raise
        return taken

    def give_back(self, number: int) -> None:
        """Let others have what `take` returned."""
        with self._changed:
            self._free.append(number)
            self._changed.notify_all()

    def lease(self) -> StreamLease:
        """Return the right of a new stream to an instance, each time the next one's."""
        number = next(self._turns)
        return StreamLease(self, number, cast(StreamingInstance, self._instances[number]))

    def close_later(self, number: int, outputs: Generator[Output]) -> None:
        """Have what an instance's stream still does ended by whoever gets that instance next."""
        if not self._closed:
            self._left[number].append(outputs)

    def close(self) -> None:
        """Admit no more calls, wait for those admitted, free the engine; then do nothing."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.wait_for(lambda: not self._calls)
            if first:
                for outputs in itertools.chain(*self._left):
                    outputs.close()
                self._left, self._instances = [], []  # they hold on to what the engine frees
                self._engine.close()

    def _find_free_for(self, ticket: int) -> int | None:
        """Return the instance that is left for a ticket once those before it have theirs."""
        free = list(self._free)
        for waiting, wanted in self._line.items():
            found = wanted if wanted in free else None
            if wanted is None and free:
                found = free[-1]
            if waiting == ticket:
                return found
            if found is not None:
                free.remove(found)
        return None


class StreamLease:
    """A stream's instance: lent to it for a step, `with lease:`, and to other calls in between.

    A step is an admitted call.

    Args:
        pool: whose instance it is.
        number: of the instance.
        instance: that instance.
    """

    def __init__(self, pool: InstancePool, number: int, instance: StreamingInstance) -> None:
        self.instance = instance
        self._pool, self._number, self._held = pool, number, False

    def __enter__(self) -> None:
        self._pool.enter()
        try:
            self._pool.take(self._number)
        except BaseException:
            self._pool.leave()
            raise
        self._held = True

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            self._pool.give_back(self._number)
            self._pool.leave()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """End a step for as long as the block runs, and begin another.

        Raises:
            ValueError: if the pool was closed meanwhile.
        """
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def end(self, outputs: Generator[Output]) -> None:
        """Give the instance up. Nothing is waited for: the garbage collector may call this."""
        self._pool.close_later(self._number, outputs)
