"""An evaluation over one process or several, which an interruption does not throw away.

Every sample's counts are integers and are added up, so neither the number of processes nor the
order in which they finish changes the result.

Shapes: `K` classes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segvit.atomic import replace_file
from segvit.evaluation import EvaluationData, Labelled
from segvit.images import UnreadableError
from segvit.inference import Predict
from segvit.metrics import ConfusionMatrix

# Opens the model on a device, with so many CPU threads (None: as many as the library takes).
OpenPredict = Callable[[str, int | None], AbstractContextManager[Predict]]
R = TypeVar("R")
_SAVE_SECONDS = 10.0


class Counted(NamedTuple):
    """A sample's confusion matrix `(K + 1, K)`, or why its files could not be read."""

    sample: int
    counts: NDArray[np.int64] | None
    problem: str = ""


@dataclass
class Tally:
    """What has been counted so far, and its file.

    Args:
        matrix: of all samples counted.
        identity: what the result depends on; a tally is resumed only under the same.
        miou: each counted sample's own mIoU, NaN where nothing in it is labelled.
        unreadable: each skipped sample's problem.
    """

    matrix: ConfusionMatrix
    identity: Mapping[str, Any]
    miou: dict[int, float] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)

    def add(self, counted: Counted) -> None:
        """Take a sample in."""
        if counted.counts is None:
            self.unreadable[counted.sample] = counted.problem
            return
        own = ConfusionMatrix(self.matrix.num_classes)
        own.counts = counted.counts
        self.miou[counted.sample] = own.compute().miou
        self.matrix.counts += counted.counts

    def left(self, count: int) -> list[int]:
        """Return which of `count` samples are neither counted nor skipped."""
        return [i for i in range(count) if i not in self.miou and i not in self.unreadable]

    def worst(self, count: int) -> list[int]:
        """Return the samples of the lowest mIoU, the worst first."""
        known = [index for index, miou in self.miou.items() if not np.isnan(miou)]
        return sorted(known, key=lambda index: (self.miou[index], index))[:count]

    def save(self, path: Path) -> None:
        """Write everything, replacing the last state only when complete."""
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                counts=self.matrix.counts,
                index=np.array(list(self.miou), np.int64),
                miou=np.array(list(self.miou.values()), np.float64),
                text=np.array(json.dumps([dict(self.identity), self.unreadable])),
            )

    def load(self, path: Path) -> None:
        """Take in what an interrupted run of the same identity had counted.

        Raises:
            FileNotFoundError: if there is nothing.
            ValueError: if the file is damaged or of another run; the message names what differs.
        """
        if not path.is_file():
            raise FileNotFoundError(f"nothing to resume: '{path}' does not exist")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                identity, unreadable = json.loads(str(arrays["text"]))
                counts, index, miou = (arrays[name] for name in ("counts", "index", "miou"))
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise ValueError(f"'{path}' is damaged ({error}); start without --resume") from error
        for name, wanted in json.loads(json.dumps(dict(self.identity))).items():
            if identity.get(name) != wanted:
                raise ValueError(
                    f"'{path}' is of another run: its {name} is {identity.get(name)}, now {wanted};"
                    " give the same options, another --out, or start without --resume"
                )
        self.matrix.counts = counts
        self.miou = dict(zip(index.tolist(), miou.tolist(), strict=True))
        self.unreadable = {int(key): value for key, value in unreadable.items()}


def count_all(
    tally: Tally,
    workers: Workers,
    skip_unreadable: bool,
    path: Path | None,
    report: Callable[[], None],
) -> None:
    """Count every sample that the tally lacks.

    Args:
        tally: taken in and added to.
        workers: who counts.
        skip_unreadable: go on after a damaged file.
        path: where to keep the tally meanwhile; it is written when an exception ends the run, too.
        report: called after each sample.

    Raises:
        UnreadableError: for the first damaged file, unless they are skipped.
    """
    saved = time.monotonic()
    try:
        for counted in workers.run(_count_sample, tally.left(len(workers.data))):
            if counted.counts is None and not skip_unreadable:
                raise UnreadableError(f"{counted.problem}; or go on without it: --skip-unreadable")
            tally.add(counted)
            report()
            if path and time.monotonic() - saved > _SAVE_SECONDS:
                tally.save(path)
                saved = time.monotonic()
    finally:
        if path:
            tally.save(path)


class Workers:
    """One process a device, each with the model open; with one device, this process itself.

    A context manager.

    Args:
        data: the samples, sent to each process once.
        open_predict: opens the model; with several devices it has to be picklable.
        devices: one a process.
    """

    def __init__(
        self, data: EvaluationData, open_predict: OpenPredict, devices: Sequence[str]
    ) -> None:
        self.data = data
        self._open_predict, self._devices = open_predict, devices
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if len(self._devices) == 1:
            _State.data = self.data
            _State.opened = self._open_predict(self._devices[0], None)
            _State.predict = _State.opened.__enter__()
            return self
        context = get_context("spawn")  # a forked process cannot use CUDA
        queue: Queue[str] = context.Queue()
        for device in self._devices:
            queue.put(device)
        threads = max(1, (os.cpu_count() or 1) // len(self._devices))
        self._pool = ProcessPoolExecutor(
            len(self._devices), context, _start_worker,
            (self.data, self._open_predict, queue, threads),
        )  # fmt: skip
        return self

    def __exit__(self, *exception: object) -> None:
        if _State.opened is not None:
            _State.opened.__exit__(None, None, None)
            _State.data = _State.opened = _State.predict = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[int], R], indices: Iterable[int]) -> Iterator[R]:
        """Yield the result of each sample as it is done, in no order.

        Raises:
            RuntimeError: if a process died.
        """
        if self._pool is None:
            yield from map(work, indices)
            return
        left, pending = iter(indices), set[Future[R]]()
        try:
            # A few at a time: all results at once would be 0.2 MB for each of 20,000 images.
            while True:
                wanted = 4 * len(self._devices) - len(pending)
                pending |= {self._pool.submit(work, index) for index in islice(left, wanted)}
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {len(self._devices)} processes died, see above (out of memory?); try "
                "fewer --devices or a smaller --batch-size"
            ) from error

    def label(self, indices: Iterable[int]) -> dict[int, Labelled]:
        """Return samples labelled by the model."""
        return dict(self.run(_label_sample, indices))


class _State:
    """What a process works with; set once when it starts."""

    data: EvaluationData | None = None
    opened: AbstractContextManager[Predict] | None = None
    predict: Predict | None = None


def _start_worker(
    data: EvaluationData, open_predict: OpenPredict, devices: Queue[str], threads: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _State.data = data
    _State.opened = open_predict(devices.get(), threads)  # closed as soon as nobody holds it
    _State.predict = _State.opened.__enter__()


def _label_sample(index: int) -> tuple[int, Labelled]:
    assert _State.data is not None
    assert _State.predict is not None
    return index, _State.data.label(_State.predict, index)


def _count_sample(index: int) -> Counted:
    try:
        _, labelled = _label_sample(index)
    except UnreadableError as error:
        return Counted(index, None, str(error))
    assert _State.data is not None
    matrix = ConfusionMatrix(len(_State.data.class_names))
    matrix.update(labelled.found, labelled.truth)
    return Counted(index, matrix.counts)
