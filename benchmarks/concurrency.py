"""Throughput of a runtime that several threads call at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.intervals import compare_paired
from benchmarks.peers import Infer
from benchmarks.timing import Clock
from engines.arrays import Images

BLOCKS = 10


def measure_concurrency(
    alone: Mapping[str, Infer],
    shared: Mapping[str, Infer],
    images: Images,
    streams: int,
    block_seconds: float,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Return the images a second of each engine called by one thread and by several.

    Blocks of both take turns, over all engines.

    Args:
        alone: engines with one instance, by name.
        shared: the same engines with `streams` instances.
        images: of one call, `(B, H, W, 3)`.
        streams: threads that call at once.
        block_seconds: of one block.
        clock: what tells the time, in seconds.
    """
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in alone}
    with ThreadPoolExecutor(streams) as pool:
        for _ in range(BLOCKS):
            for name, (one, many) in rates.items():
                for infer, count, values in ((alone[name], 1, one), (shared[name], streams, many)):
                    values.append(_run_block(pool, infer, images, count, block_seconds, clock))
    report = {}
    for name, (one, many) in rates.items():
        gain = compare_paired(many, one)
        report[name] = {
            "images_per_second": {"1": sorted(one)[BLOCKS // 2],
                                  str(streams): sorted(many)[BLOCKS // 2]},
            "gain": {"ratio": gain.ratio, "low": gain.low, "high": gain.high},
        }  # fmt: skip
    return report


def _run_block(
    pool: ThreadPoolExecutor,
    infer: Infer,
    images: Images,
    count: int,
    seconds: float,
    clock: Clock,
) -> float:
    """Return images a second of `count` threads that call until the time is over."""

    def work() -> int:
        calls = 0
        while not calls or clock() - started < seconds:
            infer(images)
            calls += 1
        return calls

    started = clock()
    workers = [pool.submit(work) for _ in range(count)]
    calls = sum(worker.result() for worker in workers)
    return calls * len(images) / (clock() - started)
