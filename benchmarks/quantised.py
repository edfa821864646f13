"""`python -m benchmarks.quantised`: what INT8 and FP8 keep of the accuracy, and what they build."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from export.manifest import Manifest
from segvit.config import VARIANTS
from segvit.shipped import SHIPPED_MODELS

_EPILOG = """\
example:
  python -m benchmarks.quantised --model vit_t_landcover --random-model vit_b_ade20k
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Build and evaluate, each in a process of its own."""
    arguments = _parse_arguments(argv)
    jobs = [(name, precision) for name in arguments.model for precision in arguments.precision]
    builds = [(name, precision) for name in arguments.random_model
              for precision in ("fp16", *arguments.precision)]  # fmt: skip
    report: dict[str, Any] = {"machine": describe_machine(), "accuracy": [], "builds": []}
    with tqdm(total=len(jobs) + len(builds), unit="build", disable=arguments.json or None) as bar:
        for name, precision in jobs:
            report["accuracy"].append(measure_accuracy(name, precision, arguments.calibration))
            _save(report, arguments.out)
            bar.update()
        for name, precision in builds:
            report["builds"].append(
                measure_build(name, precision, arguments.random_calibration,
                              arguments.compute_capability)
            )  # fmt: skip
            _save(report, arguments.out)
            bar.update()
    print(json.dumps(report, indent=2) if arguments.json else _format(report))
    return 0


def _save(report: dict[str, Any], path: Path | None) -> None:
    # After every row, so that an interruption costs one.
    if path:
        write_result(path, report)


def measure_accuracy(model: str, precision: str, calibration: int) -> dict[str, Any]:
    """Return mIoU on land cover's test split before and after, and the build's own parity.

    Raises:
        RuntimeError: if a command fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        # Scores, since the protocol averages them.
        _run("export.build", f"--model={model}", f"--{precision}", "--target=ort",
             "--output=scores", f"--num-calibration-images={calibration}",
             f"--out={artifact}")  # fmt: skip
        parity = Manifest.read(artifact).parity
        ranges = json.loads((artifact / "ranges.json").read_text())
        common = ("--dataset=landcover", "--split=test", "--json")
        out = f"--out={Path(folder) / 'eval'}"
        before = json.loads(_run("segvit.evaluate", f"--model={model}", *common, f"{out}-float"))
        after = json.loads(_run("segvit.evaluate", f"--artifact={artifact}", *common, out))
    assert parity is not None
    return {
        "model": model,
        "precision": precision,
        "miou_fp32": before["miou"],
        "miou": after["miou"],
        "pixels": after["pixels"],
        "agreement": parity.pixel_agreement,
        "score_rms": parity.details["score_rms"],
        "source": parity.details["source"],
        "calibration": f"{ranges['source']}, {ranges['method']}",
    }


def measure_build(
    model: str, precision: str, calibration: int, compute_capability: str
) -> dict[str, Any]:
    """Return the audit of a build with random weights, and the size of its engine.

    Raises:
        RuntimeError: if the build fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        images = [] if precision == "fp16" else [f"--num-calibration-images={calibration}"]
        _run("export.build", f"--model={model}", "--random-weights", f"--{precision}",
             "--target=trt-rtx", f"--compute-capability={compute_capability}", *images,
             f"--out={artifact}")  # fmt: skip
        manifest = Manifest.read(artifact)
        engine = manifest.targets[0]
        size = (artifact / engine.file).stat().st_size
    audit = engine.audit
    assert audit is not None
    return {
        "model": model,
        "precision": precision,
        "kernels": audit.kernels,
        "attentions": audit.attentions,
        "fused_attentions": audit.fused_attentions,
        "traffic_mb": audit.traffic_mb,
        "gemm_datatypes": audit.gemm_datatypes,
        "engine_mb": size / 1e6,
        "score_rms": manifest.parity and manifest.parity.details["score_rms"],
        "compiler": f"{engine.target} {engine.version}, {compute_capability}",
    }


def _run(module: str, *options: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"python -m {module} {' '.join(options)} failed: {lines[-1]}")
    return done.stdout


def _format(report: dict[str, Any]) -> str:
    lines = [f"{'':26}{'':6}{'mIoU FP32':>10}{'mIoU':>9}{'labels':>9}{'score RMS':>11}"]
    for row in report["accuracy"]:
        lines.append(
            f"{row['model']:26}{row['precision']:6}{row['miou_fp32']:10.4f}{row['miou']:9.4f}"
            f"{row['agreement']:9.4f}{row['score_rms']:11.1e}"
        )
    lines.append(f"{'':26}{'':6}{'kernels':>10}{'fused':>9}{'MB':>9}{'engine MB':>11}  products")
    for row in report["builds"]:
        fused = f"{row['fused_attentions']}/{row['attentions']}"
        products = " + ".join(f"{count} {name}" for name, count in row["gemm_datatypes"].items())
        lines.append(
            f"{row['model']:26}{row['precision']:6}{row['kernels']:10}{fused:>9}"
            f"{row['traffic_mb']:9,.0f}{row['engine_mb']:11.0f}  {products}"
        )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantised",
        description="Quantise shipped models and evaluate them on land cover's test split; build "
        "models of random weights and audit their engines beside FP16's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", nargs="*", choices=SHIPPED_MODELS, default=list(SHIPPED_MODELS),
        metavar="NAME", help=f"to evaluate (default {' '.join(SHIPPED_MODELS)})")  # fmt: skip
    add("--random-model", nargs="*", choices=list(VARIANTS), default=["vit_b_ade20k"],
        metavar="NAME", help="to build with random weights (default vit_b_ade20k)")  # fmt: skip
    add("--precision", nargs="+", choices=("int8", "fp8"), default=["int8", "fp8"])
    add("--calibration", type=int, default=256, metavar="N",
        help="images that calibrate shipped models (default %(default)s)")  # fmt: skip
    add("--random-calibration", type=int, default=4, metavar="N",
        help="images that calibrate random weights (default %(default)s)")  # fmt: skip
    add("--compute-capability", default="SM89", metavar="SM")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there, after every row")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if min(arguments.calibration, arguments.random_calibration) < 1:
        parser.error("--calibration and --random-calibration must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
