"""What makes figures doubtful."""

from typing import Any

import pytest

from benchmarks.caveats import find_label_caveats, find_latency_caveats, find_load_caveats
from benchmarks.gpu_stages import GpuStages, find_stage_caveats
from benchmarks.timing import LatencySummary, summarise


def _load(
    before: float = 0, during: float = 0, stolen: float = 0, throttled: int | None = 0
) -> Any:
    return {
        "other_cores_before": before,
        "during": {"other_cores": during, "stolen_cores": stolen},
        "throttled": throttled,
    }


def test_latencies() -> None:
    calm, wild = summarise([10.0, 10.1] * 10), summarise([10.0, 15.0] * 10)
    assert find_latency_caveats({"calm": calm}) == []
    (caveat,) = find_latency_caveats({"calm": calm, "wild": wild})
    assert caveat.startswith("wild: unstable, the coefficient of variation is 20%")
    (caveat,) = find_latency_caveats({"few": summarise([10.0] * 9)})
    assert caveat.startswith("9 rounds are too few for an interval: expected 10 at least")


@pytest.mark.parametrize(
    ("load", "threads", "caveat"),
    [
        (_load(before=0.5), 2, "other processes kept 0.50 of 2 cores busy before the run"),
        (_load(during=1.25), 2, "other processes kept 1.25 of 2 cores busy during the run"),
        (_load(stolen=0.2), 2, "the hypervisor gave 0.20 of 2 cores to other machines"),
        (_load(throttled=3), 2, "cores were slowed down for heat 3 times"),
        (_load(throttled=None), 4, "4 threads share 2 cores"),
    ],
)
def test_load(load: Any, threads: int, caveat: str) -> None:
    assert find_load_caveats(_load(), 2, 2) == []
    assert find_load_caveats(load, 2, threads) == [caveat]


def test_labels() -> None:
    found = find_label_caveats(
        {"good": 0.9995, "bad": 0.98, "random": 0.2}, {"good": 0.999, "bad": 0.999, "random": None}
    )
    assert len(found) == 1
    assert found[0].startswith("bad: 0.98000 of labels as in golden.npz, the gate")


def test_stages_of_a_gpu() -> None:
    def steady(ms: float) -> LatencySummary:
        return summarise([ms] * 10)

    fine = GpuStages(steady(0.1), steady(2.0), steady(0.1), steady(0.2), None)
    assert find_stage_caveats("trt fp16", fine) == []
    bound = GpuStages(steady(0.1), steady(0.15), steady(0.2), steady(0.3), None)
    enqueue, copies = find_stage_caveats("trt fp16", bound)
    assert "bound by enqueueing on the CPU (0.300 ms) rather than by GPU compute" in enqueue
    assert "bound by copies from the GPU (0.200 ms)" in copies
