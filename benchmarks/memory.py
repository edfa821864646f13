"""Peak memory of a piece of work, measured in a process that does nothing else."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# Not getrusage's ru_maxrss: Linux hands down that of the parent to what it starts.
_STATUS = Path("/proc/self/status")


def measure_peak_mib(work: Callable[..., object], *arguments: Any) -> float:
    """Return the largest resident memory of a new process that did `work(*arguments)`, in MiB.

    Python, the imports and all libraries loaded are part of it.

    Args:
        work: a function of a module; it and its arguments can be pickled.
        arguments: what it is called with.

    Raises:
        Exception: what `work` raises.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, work, arguments).result()


def _run(work: Callable[..., object], arguments: tuple[Any, ...]) -> float:
    work(*arguments)
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, "Linux has it for every process that is no kernel thread"
    return int(found[1]) / 1024
