"""Peak memory in a process of its own."""

import operator

import pytest

from benchmarks.memory import measure_peak_mib


def test_what_the_work_takes_is_seen_and_this_process_is_not() -> None:
    held = b"x" * (300 * 2**20)
    small, large = (measure_peak_mib(operator.mul, b"x", n * 2**20) for n in (1, 101))
    assert 95 < large - small < 105
    assert large < len(held) / 2**20


def test_errors_come_through() -> None:
    with pytest.raises(ValueError, match="could not convert string to float"):
        measure_peak_mib(float, "x")
