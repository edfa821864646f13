"""Throughput of several calls at once."""

import threading
import time

import numpy as np
import pytest

from benchmarks.concurrency import measure_concurrency


def test_calls_that_wait_gain_and_calls_in_a_queue_do_not() -> None:
    lock = threading.Lock()

    def wait(images: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return images

    def queue(images: np.ndarray) -> np.ndarray:
        with lock:
            return wait(images)

    engines = {"parallel": wait, "serial": queue}
    report = measure_concurrency(engines, engines, np.zeros((2, 1, 1, 3), np.uint8), 3, 0.04)
    assert report["parallel"]["gain"]["ratio"] > 1.8
    assert report["serial"]["gain"]["ratio"] < 1.4
    assert 20 < report["serial"]["images_per_second"]["1"] <= 200


def test_errors_come_through() -> None:
    def fail(images: np.ndarray) -> np.ndarray:
        raise RuntimeError("no engine")

    with pytest.raises(RuntimeError, match="no engine"):
        measure_concurrency({"A": fail}, {"A": fail}, np.zeros((1, 1, 1, 3), np.uint8), 2, 0.01)
