"""`python -m export.build` in a process of its own: its time, its peak memory, its error line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class BuildRun(NamedTuple):
    """What a build took; memory is the process's peak, resident."""

    seconds: float
    peak_gib: float


def run_build(options: Sequence[str], artifact: Path) -> BuildRun:
    """Build an artifact with these options and return what it took.

    Args:
        options: of `export.build`, `--model=NAME` first.
        artifact: the folder to write.

    Raises:
        RuntimeError: if the build fails, with its last line.
    """
    model = options[0].removeprefix("--model=")
    command = [sys.executable, "-m", "export.build", *options, f"--out={artifact}"]
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)  # tells this one child's peak memory
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines() or ["it said nothing"]
            raise RuntimeError(f"the build of '{model}' failed: {lines[-1]}")
    return BuildRun(seconds, usage.ru_maxrss / 2**20)
