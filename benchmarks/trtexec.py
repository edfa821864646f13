"""TensorRT's own tool on an artifact's ONNX file: a peer that runs alone, not in turns."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.timing import summarise
from engines.runtime import verify_onnx_file
from export.manifest import Manifest

SWITCHES = ("--useCudaGraph", "--useSpinWait")
_COLUMNS = {"latency": "latencyMs", "h2d": "h2dMs", "compute": "computeMs", "d2h": "d2hMs"}


def run_trtexec(folder: Path, batch: int, seconds: float, warm_up_s: float) -> dict[str, Any]:
    """Return the latencies that trtexec measures, after it built an engine by itself.

    Raises:
        ManifestError: if the ONNX file is not the one that the manifest lists.
        RuntimeError: if trtexec fails, with the last that it said.
    """
    manifest = Manifest.read(folder)
    path = verify_onnx_file(folder, "model.onnx", manifest)
    height, width = manifest.input.shape[1:3]
    shape = f"{manifest.input.name}:{batch}x{height}x{width}x3"
    dynamic = isinstance(manifest.input.shape[0], str)
    with tempfile.TemporaryDirectory() as place:
        times = Path(place) / "times.json"
        command = [
            "trtexec", f"--onnx={path}", *([f"--shapes={shape}"] if dynamic else []), *SWITCHES,
            f"--duration={max(1, round(seconds))}", f"--warmUp={round(warm_up_s * 1e3)}",
            f"--exportTimes={times}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not times.is_file():
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RuntimeError(
                f"trtexec ended with {done.returncode} on '{path}': {' | '.join(said[-3:])}"
            )
        rows = json.loads(times.read_text())
    return {
        "switches": list(SWITCHES),
        "order": "alone, after the interleaved rounds: no ratio is given",
        **{name: asdict(summarise([row[key] for row in rows])) for name, key in _COLUMNS.items()},
    }
