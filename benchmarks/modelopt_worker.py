"""One ModelOpt job, for a Python that has ModelOpt and nothing of this project.

    python -I benchmarks/modelopt_worker.py job.json

The job names the float ONNX file, an .npz file of calibration images, the file to write, the mode
and the patterns of the nodes to quantise (null: what ModelOpt chooses).
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np


def main() -> None:
    """Quantise one file as the job says; a failure is a traceback and exit code 1."""
    job = json.loads(Path(sys.argv[1]).read_text())
    images = np.load(job["images"])["image"]
    quantization = import_module("modelopt.onnx.quantization")
    quantization.quantize(
        job["onnx"],
        quantize_mode=job["mode"],
        # Without data it would calibrate on noise of its own, in floats that this graph refuses.
        calibration_data={"image": images},
        calibration_eps=["cpu"],
        nodes_to_quantize=job["nodes"],
        output_path=job["out"],
        log_level="WARNING",
    )


if __name__ == "__main__":
    main()
