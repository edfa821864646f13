"""Measured figures as benchmarks leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Result = dict[str, Any]


def read_result(name: str) -> Result:
    """Return benchmarks/results/<name>.json."""
    result: Result = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def show_ratio(interval: Result) -> str:
    """Return a ratio and its interval."""
    return f"{interval['ratio']:.3f} ({interval['low']:.3f}-{interval['high']:.3f})"


def describe_machine(result: Result) -> str:
    """Return what a result was measured on: processor, threads and versions."""
    machine = result["machine"]
    versions = f"torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}, OpenVINO "
    return (
        f"{machine['processor']} ({machine['instructions']}), {result['threads']} threads; "
        f"{versions}{machine['openvino'].split('-')[0]}"
    )
