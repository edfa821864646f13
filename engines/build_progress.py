"""How far a builder is, told by its monitor and shown as one bar."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

_PERCENT = 100.0


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The builder's nested phases; its threads write, the waiting thread reads.

    A monitor's callbacks are called from C++, which an exception would end: nothing here raises.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._finished = False
        self._cancelled = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Note that a phase of so many steps began inside another."""
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(steps, 1))

    def step(self, name: str, step: int) -> bool:
        """Note a finished step, counted from 0; False asks the builder to stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
            return not self._cancelled

    def finish(self, name: str) -> None:
        """Note that a phase ended."""
        with self._lock:
            phase = self._phases.pop(name, None)
            self._finished = self._finished or (phase is not None and phase.parent is None)

    def cancel(self) -> None:
        """Ask the builder to stop at its next step."""
        with self._lock:
            self._cancelled = True

    def percent(self) -> float:
        """Return the share done: each phase is a step of its parent, split by its own steps."""
        with self._lock:
            if not self._phases:
                return _PERCENT if self._finished else 0.0
            share, weight = 0.0, 1.0
            for phase in self._phases.values():  # outermost first: phases nest
                share += weight * min(phase.done, phase.steps) / phase.steps
                weight /= phase.steps
            return min(share, 1.0) * _PERCENT

    def phase(self) -> str:
        """Return the name of the innermost phase at work, or that the build is stopping."""
        with self._lock:
            if self._cancelled:
                return "stopping after this step"
            return next(reversed(self._phases), "") if self._phases else ""


@contextmanager
def show_progress(state: BuildProgress, label: str, shown: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that redraws the bar; on anything but a terminal there is none."""
    layout = "{desc}: {percentage:3.0f}%|{bar:24}| {elapsed}{postfix}"
    disable = None if shown else True
    with tqdm(total=_PERCENT, desc=label, bar_format=layout, leave=False, disable=disable) as bar:

        def refresh() -> None:
            bar.n = max(bar.n, state.percent())
            bar.set_postfix_str(state.phase(), refresh=False)
            bar.refresh()

        yield refresh
