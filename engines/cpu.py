"""What this CPU can compute."""

from __future__ import annotations

import re
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_INT8_SUMS = re.compile(r"\b(avx512_vnni|avx_vnni|amx_int8|asimddp)\b")


def sums_int8_exactly() -> bool:
    """Return whether it is known to add products of INT8 in 32 bits.

    Without such instructions OpenVINO and ONNX Runtime add pairs in 16 bits, which saturate.
    """
    try:
        return bool(_INT8_SUMS.search(_CPU_INFO.read_text()))
    except OSError:
        return False
