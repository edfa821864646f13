"""Copies, computation and enqueueing of a TensorRT engine apart, by CUDA events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.gpu_state import read_gpus
from benchmarks.timing import FEWEST_ROUNDS, LatencySummary, summarise
from engines.arrays import Images
from engines.gpu import check_cuda, import_cudart
from engines.target import Target
from engines.trt_runtime import TrtEngine
from export.manifest import Manifest

_WARM_UP = 3  # calls: the second captures the CUDA graph


@dataclass(frozen=True)
class GpuStages:
    """Latencies in trtexec's words; `enqueue` is the CPU's time, the others are the GPU's.

    `energy_mj` is what the whole GPU took a call, None where NVML does not tell.
    """

    h2d: LatencySummary
    compute: LatencySummary
    d2h: LatencySummary
    enqueue: LatencySummary
    energy_mj: float | None


def measure_gpu_stages(
    folder: Path, target: Target, images: Images, seconds: float, device: int = 0
) -> GpuStages:
    """Return the stages of an engine that runs alone for some seconds.

    Raises:
        ValueError: if it was made for another GPU or version.
        GpuError: if CUDA fails.
    """
    engine = TrtEngine(folder, Manifest.read(folder), target, device)
    try:
        instance, cudart = engine.make_instance(), import_cudart()
        cuda, buffers, count = instance.cuda, instance.buffers, len(images)
        events = [check_cuda(cudart.cudaEventCreate(), "making an event") for _ in range(4)]
        pinned, labels = buffers.host_input(count), buffers.host_output(count)
        np.copyto(pinned, images)
        for _ in range(_WARM_UP):
            instance.run(images, None)
        rows: list[tuple[float, float, float, float]] = []
        energy, started = _read_energy(device), time.perf_counter()
        while len(rows) < FEWEST_ROUNDS or time.perf_counter() - started < seconds:
            cuda.record(events[0], instance.compute)
            cuda.copy_to_gpu(buffers.input, pinned, instance.compute)
            cuda.record(events[1], instance.compute)
            submitted = time.perf_counter()
            instance.launch(count, buffers.input, buffers.output)
            enqueue = (time.perf_counter() - submitted) * 1e3
            cuda.record(events[2], instance.compute)
            cuda.copy_from_gpu(labels, buffers.output, instance.compute)
            cuda.record(events[3], instance.compute)
            cuda.finish(instance.compute, "running the engine")
            h2d, compute, d2h = (
                float(check_cuda(cudart.cudaEventElapsedTime(first, last), "reading an event"))
                for first, last in pairwise(events)
            )
            rows.append((h2d, compute, d2h, enqueue))
        used = _read_energy(device)
        for event in events:
            check_cuda(cudart.cudaEventDestroy(event), "freeing an event")
    finally:
        engine.close()
    spent = None if energy is None or used is None else (used - energy) / len(rows)
    h2d_ms, compute_ms, d2h_ms, enqueue_ms = (list(column) for column in zip(*rows, strict=True))
    return GpuStages(
        h2d=summarise(h2d_ms),
        compute=summarise(compute_ms),
        d2h=summarise(d2h_ms),
        enqueue=summarise(enqueue_ms),
        energy_mj=spent,
    )


def find_stage_caveats(name: str, stages: GpuStages) -> list[str]:
    """Return what trtexec would warn of: a GPU that waits for the CPU or for copies."""
    limits = {
        "enqueueing on the CPU": stages.enqueue,
        "copies to the GPU": stages.h2d,
        "copies from the GPU": stages.d2h,
    }
    return [
        f"{name}: throughput may be bound by {what} ({summary.p50_ms:.3f} ms) rather than by GPU "
        f"compute ({stages.compute.p50_ms:.3f} ms)"
        for what, summary in limits.items()
        if summary.p50_ms >= stages.compute.p50_ms
    ]


def _read_energy(device: int) -> float | None:
    gpus = read_gpus().get("gpus", [])
    return gpus[device]["energy_mj"] if device < len(gpus) else None
