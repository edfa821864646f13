"""What else the CPU did meanwhile: other processes, clocks, throttling; and pinning to cores."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC, _CPUS = Path("/proc"), Path("/sys/devices/system/cpu")
_IDLE = (3, 4)  # fields of /proc/stat's first line: idle, iowait
_STEAL, _FIELDS = 7, 8  # guest times, the rest, are part of user and nice already
_BEFORE_SECONDS = 0.5


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since the machine started, of all cores together; `own` are this process's."""

    busy: float
    stolen: float
    own: float
    wall: float


def read_cpu_times(proc: Path = _PROC) -> CpuTimes:
    """Return what `/proc/stat` has by now; `stolen` is what a hypervisor gave to others."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = (proc / "stat").read_text().split("\n", 1)[0].split()[1 : _FIELDS + 1]
    seconds = [int(field) / ticks for field in fields]
    used = os.times()
    return CpuTimes(
        busy=sum(value for index, value in enumerate(seconds) if index not in _IDLE),
        stolen=seconds[_STEAL],
        own=used.user + used.system,
        wall=time.perf_counter(),
    )


def compare_times(start: CpuTimes, end: CpuTimes) -> dict[str, float]:
    """Return how many cores this process and others kept busy between two readings.

    `/proc/stat` counts in hundredths of a second, so short spans are coarse.
    """
    wall = max(end.wall - start.wall, 1e-9)
    own = end.own - start.own
    others = max(end.busy - start.busy - own, 0.0)
    return {
        "own_cores": round(own / wall, 3),
        "other_cores": round(others / wall, 3),
        "stolen_cores": round((end.stolen - start.stolen) / wall, 3),
    }


class LoadWatch:
    """Watches the CPU from its making to `report`; takes half a second to see what runs before."""

    def __init__(self) -> None:
        started = read_cpu_times()
        time.sleep(_BEFORE_SECONDS)
        self._start = read_cpu_times()
        self._before = compare_times(started, self._start)["other_cores"]
        self._load, self._clocks = os.getloadavg(), read_clocks_mhz()
        self._throttled = count_throttlings()

    def report(self) -> dict[str, Any]:
        """Return load and clocks before, during and after; None where they cannot be read."""
        clocks, throttled = read_clocks_mhz(), count_throttlings()
        return {
            "other_cores_before": self._before,
            "during": compare_times(self._start, read_cpu_times()),
            "load_average_before": [round(value, 2) for value in self._load],
            "load_average_after": [round(value, 2) for value in os.getloadavg()],
            "clocks_mhz_before": self._clocks,
            "clocks_mhz_after": clocks,
            "throttled": None
            if throttled is None or self._throttled is None
            else throttled - self._throttled,
        }


def read_clocks_mhz(proc: Path = _PROC, cpus: Path = _CPUS) -> list[int] | None:
    """Return each core's clock by now, None where the system does not tell.

    A virtual machine's `/proc/cpuinfo` often has the nominal clock, whatever the real one is.
    """
    scaling = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if scaling:
        return [int(path.read_text()) // 1000 for path in scaling]
    info = proc / "cpuinfo"
    text = info.read_text() if info.exists() else ""
    return [int(clock) for clock in re.findall(r"^cpu MHz\s*:\s*(\d+)", text, re.MULTILINE)] or None


def count_throttlings(cpus: Path = _CPUS) -> int | None:
    """Return how often cores were slowed down for heat, None where the system does not count."""
    counters = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return sum(int(path.read_text()) for path in counters) if counters else None


@contextmanager
def pin_threads(count: int) -> Iterator[list[int]]:
    """Keep all threads of this process, and those they start, on `count` cores; yield these.

    Raises:
        ValueError: if the process may not use so many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise ValueError(
            f"--pin: expected at most as many --threads as cores this process may use, "
            f"{len(allowed)}, got {count}"
        )
    _set_affinity(allowed[:count])
    try:
        yield allowed[:count]
    finally:
        _set_affinity(allowed)


def _set_affinity(cores: list[int]) -> None:
    for thread in (_PROC / "self" / "task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:
            continue  # it ended meanwhile
