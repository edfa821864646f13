"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu_state import read_gpus

_PACKAGES = (
    "segvit-deploy",
    "torch",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "numpy",
    "opencv-python-headless",
)
# What decides how fast a CPU multiplies.
_INSTRUCTIONS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd",
    "asimddp", "bf16", "i8mm",
)  # fmt: skip
_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str | int | float]:
    """Return processor, instructions, cores, load, Python and package versions."""
    described: dict[str, str | int | float] = {
        "processor": _read_cpu_info("model name") or platform.processor() or "unknown",
        "instructions": _find_instructions(),
        "cores": os.cpu_count() or 0,
        "load_1_min": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            continue
    return described


def name_device() -> str:
    """Return the GPU's name, or the processor's, as a part of a file name."""
    gpus = read_gpus().get("gpus", [])
    name = gpus[0]["name"] if gpus else _read_cpu_info("model name") or platform.machine()
    name = re.sub(r"\(\w+\)|\b(cpu|processor)\b|@.*", " ", str(name).lower())
    return "-".join(re.findall(r"[a-z0-9]+", name)) or "unknown"


def _find_instructions() -> str:
    flags = set((_read_cpu_info("flags") or _read_cpu_info("Features")).split())
    return " ".join(name for name in _INSTRUCTIONS if name in flags) or "unknown"


def _read_cpu_info(key: str) -> str:
    """Return the first processor's value of a key, empty where the system has none."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for name, value in pairs if name.strip() == key), "")
