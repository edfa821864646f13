"""GPUs' state: by a stand-in for NVML, which has the same names, and without any."""

import os
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks.gpu_state import find_gpu_caveats, read_gpus


class NvmlError(Exception):
    pass


def _make_nvml(pids: list[int], throttling: int, busy: int = 0) -> ModuleType:
    nvml = ModuleType("pynvml")

    def refuse(*_: object) -> None:
        raise NvmlError("Not Supported")

    answers = {
        "Name": b"A GPU",
        "ComputeRunningProcesses": [SimpleNamespace(pid=pid) for pid in pids],
        "UtilizationRates": SimpleNamespace(gpu=busy),
        "MemoryInfo": SimpleNamespace(used=3 * 2**20),
        "ClockInfo": 1500,
        "Temperature": 40,
        "CurrentClocksThrottleReasons": throttling,
        "PowerUsage": 70_000,
    }
    for name, answer in answers.items():
        setattr(nvml, f"nvmlDeviceGet{name}", lambda *_, answer=answer: answer)
    vars(nvml).update(
        NVMLError=NvmlError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetTotalEnergyConsumption=refuse,
    )  # fmt: skip
    return nvml


def test_state() -> None:
    state = read_gpus(_make_nvml([os.getpid()], 0x01))  # idle is no throttling
    assert state["driver"] == "580.1"
    (gpu,) = state["gpus"]
    assert gpu["name"] == "A GPU"
    assert (gpu["other_processes"], gpu["throttled_by"], gpu["memory_used_mib"]) == (0, [], 3)
    assert gpu["energy_mj"] is None
    assert find_gpu_caveats(state, state) == []


def test_other_users_and_throttling_are_said() -> None:
    before = read_gpus(_make_nvml([os.getpid(), 1, 2], 0))
    after = read_gpus(_make_nvml([os.getpid()], 0x44))
    shared, throttled = find_gpu_caveats(before, after)
    assert "GPU 0 is in use by 2 other processes" in shared
    assert throttled == "GPU 0 was throttled: hardware thermal slowdown, power cap"
    (busy,) = find_gpu_caveats(read_gpus(_make_nvml([], 0, busy=35)), read_gpus(_make_nvml([], 0)))
    assert "GPU 0 was busy to 35 %" in busy


def test_why_nothing_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _make_nvml([], 0)

    def fail() -> None:
        raise NvmlError("Driver Not Loaded")

    nvml.nvmlInit = fail  # type: ignore[attr-defined]
    assert read_gpus(nvml) == {"not_read": "NVML does not start: Driver Not Loaded"}
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in read_gpus()["not_read"]
    assert find_gpu_caveats(read_gpus(), read_gpus()) == []
