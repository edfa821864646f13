"""What NVIDIA GPUs do besides: other users, clocks, throttling, power; by NVML, if installed."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any

_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def read_gpus(nvml: ModuleType | None = None) -> dict[str, Any]:
    """Return the driver and the GPUs' state by now, or under `not_read` why there is none.

    Args:
        nvml: the module `pynvml` of nvidia-ml-py; found by itself if None.
    """
    try:
        nvml = nvml or import_module("pynvml")
    except ImportError:
        return {"not_read": "nvidia-ml-py is not installed; pip install nvidia-ml-py"}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"not_read": f"NVML does not start: {error}"}
    try:
        count = nvml.nvmlDeviceGetCount()
        return {
            "driver": _as_text(nvml.nvmlSystemGetDriverVersion()),
            "gpus": [_read_gpu(nvml, index) for index in range(count)],
        }
    except nvml.NVMLError as error:
        return {"not_read": f"NVML: {error}"}
    finally:
        nvml.nvmlShutdown()


def find_gpu_caveats(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what makes figures of the GPU doubtful: other users, slowed clocks.

    Args:
        before: read before this process used a GPU.
        after: read after the run.
    """
    caveats = []
    for index, (first, last) in enumerate(
        zip(before.get("gpus", []), after.get("gpus", []), strict=False)
    ):
        # Only before the run: in a container this process has another number for the driver.
        if others := first["other_processes"]:
            caveats.append(
                f"GPU {index} is in use by {others} other processes; latencies include their share"
            )
        elif first["utilisation_percent"]:  # in a container, processes of others are not listed
            caveats.append(
                f"GPU {index} was busy to {first['utilisation_percent']} % before the run; others "
                "use it"
            )
        reasons = sorted({*first["throttled_by"], *last["throttled_by"]})
        if reasons:
            caveats.append(f"GPU {index} was throttled: {', '.join(reasons)}")
    return caveats


def _read_gpu(nvml: ModuleType, index: int) -> dict[str, Any]:
    """Return a GPU's state; what it cannot tell is None."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:  # not of this GPU
            return None

    processes = ask("nvmlDeviceGetComputeRunningProcesses")
    utilisation, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    throttling = ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    return {
        "name": _as_text(ask("nvmlDeviceGetName")),
        "other_processes": None
        if processes is None
        else sum(process.pid != os.getpid() for process in processes),
        "utilisation_percent": utilisation and utilisation.gpu,
        "memory_used_mib": memory and memory.used // 2**20,
        "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "throttled_by": [text for bit, text in _THROTTLING.items() if throttling & bit],
        "power_mw": ask("nvmlDeviceGetPowerUsage"),
        "energy_mj": ask("nvmlDeviceGetTotalEnergyConsumption"),
    }


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
