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
