"""What else the CPU did: read from files of the test's own, and from this machine's."""

import os
from pathlib import Path

import pytest

from benchmarks.load import (
    CpuTimes,
    LoadWatch,
    compare_times,
    count_throttlings,
    pin_threads,
    read_clocks_mhz,
    read_cpu_times,
)


def test_stat_counts_guests_once(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 10 50 1000 200 5 5 30 77 8\ncpu0 1 1 1 1\n")
    ticks = os.sysconf("SC_CLK_TCK")
    found = read_cpu_times(tmp_path)
    assert found.busy == pytest.approx(200 / ticks)  # user, nice, system, irq, softirq, steal
    assert found.stolen == pytest.approx(30 / ticks)


def test_cores_of_others() -> None:
    found = compare_times(CpuTimes(100, 1, 5, 50), CpuTimes(130, 2, 20, 60))
    assert found == {"own_cores": 1.5, "other_cores": 1.5, "stolen_cores": 0.1}


def test_this_process_is_no_other() -> None:
    start = read_cpu_times()
    while (end := read_cpu_times()).own - start.own < 0.3:
        pass
    found = compare_times(start, end)
    assert 0.05 < found["own_cores"] < 1.5
    assert 0 <= found["other_cores"] <= (os.cpu_count() or 1)


def test_watch() -> None:
    report = LoadWatch().report()
    assert len(report["load_average_before"]) == len(report["load_average_after"]) == 3
    assert report["other_cores_before"] >= 0
    assert set(report["during"]) == {"own_cores", "other_cores", "stolen_cores"}


def test_clocks_and_throttling(tmp_path: Path) -> None:
    assert read_clocks_mhz(tmp_path, tmp_path) is None
    assert count_throttlings(tmp_path) is None
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 2445.406\nmodel\t: 1\ncpu MHz\t\t: 1200.5\n")
    assert read_clocks_mhz(tmp_path, tmp_path) == [2445, 1200]
    for index, (khz, count) in enumerate([(3_600_000, 2), (800_000, 3)]):
        for name, value in (("cpufreq/scaling_cur_freq", khz),
                            ("thermal_throttle/core_throttle_count", count)):  # fmt: skip
            path = tmp_path / f"cpu{index}" / name
            path.parent.mkdir(parents=True)
            path.write_text(f"{value}\n")
    assert read_clocks_mhz(tmp_path, tmp_path) == [3600, 800]
    assert count_throttlings(tmp_path) == 5


def test_pinning_ends() -> None:
    allowed = os.sched_getaffinity(0)
    with pin_threads(1) as cores:
        assert os.sched_getaffinity(0) == set(cores)
        assert len(cores) == 1
    assert os.sched_getaffinity(0) == allowed
    message = rf"at most as many --threads as cores this process may use, {len(allowed)}, got 999"
    with pytest.raises(ValueError, match=message), pin_threads(999):
        pass
