"""`release_memory` returns what is free and what only cycles hold."""

import gc
import platform
import weakref
from pathlib import Path

import numpy as np
import pytest

from segvit.memory import release_memory


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_collected() -> None:
    gc.disable()
    try:
        kept = weakref.ref(_Cycle())
        assert kept() is not None
        release_memory()
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_free_pages_go_back() -> None:
    blocks = [np.ones(100_000, np.uint8) for _ in range(1000)]  # below the threshold of 128 KB
    last = np.ones(100_000, np.uint8)  # what lies above the free blocks keeps the heap's end
    del blocks
    before = _resident_bytes()
    release_memory()
    assert _resident_bytes() < before - 50_000_000
    assert last.any()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
