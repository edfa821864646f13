"""`python -m benchmarks.build_cost`: time and memory of whole builds, and what they reach."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.build_run import run_build
from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from export.manifest import Manifest
from segvit.config import VARIANTS

_EPILOG = """\
example:
  python -m benchmarks.build_cost --model vit_b_ade20k --tail-strips 1 4
  python -m benchmarks.build_cost --model vit_l_ade20k --int8 --target ort trt-rtx
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Build each model in a process of its own and print what it took."""
    arguments = _parse_arguments(argv)
    jobs = [
        [f"--model={model}", "--random-weights", *_describe_precision(arguments),
         *(f"--target={target}" for target in arguments.target),
         f"--compute-capability={arguments.compute_capability}", f"--tail-strips={strips}"]
        for model in arguments.model for strips in arguments.tail_strips
    ]  # fmt: skip
    builds = [
        measure_build(options)
        for options in tqdm(jobs, unit="build", leave=False, disable=arguments.json or None)
    ]
    report = {"machine": describe_machine(), "builds": builds}
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(builds))
    return 0


def measure_build(options: Sequence[str]) -> dict[str, Any]:
    """Return time, peak memory, audit and score error of a build with these options.

    Args:
        options: of `export.build`, `--model=NAME` first.

    Raises:
        RuntimeError: if the build fails, with what it said.
    """
    model = options[0].removeprefix("--model=")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        build = run_build(options, artifact)
        manifest = Manifest.read(artifact)
        engine = next(entry for entry in manifest.targets if entry.audit is not None)
        plan_bytes = (artifact / engine.file).stat().st_size
    audit, parity = engine.audit, manifest.parity
    assert audit is not None
    assert parity is not None
    return {
        "model": model,
        "options": list(options),
        "seconds": round(build.seconds, 1),
        "engine_seconds": engine.build_seconds,
        "peak_gib": round(build.peak_gib, 2),
        "engine_mb": round(plan_bytes / 1e6, 1),
        "kernels": audit.kernels,
        "attentions": audit.attentions,
        "fused_attentions": audit.fused_attentions,
        "gemm_datatypes": audit.gemm_datatypes,
        "traffic_mb": audit.traffic_mb,
        "activation_mb": audit.activation_mb,
        "parts": {name: [part.kernels, part.traffic_mb] for name, part in audit.parts.items()},
        "score_rms": parity.details["score_rms"],
    }


def _describe_precision(arguments: argparse.Namespace) -> list[str]:
    """Return the options of `export.build` that decide the precision."""
    if arguments.precision == "fp16":
        return ["--fp16"]
    count = arguments.num_calibration_images
    return [f"--{arguments.precision}", f"--num-calibration-images={count}"]


def _format(builds: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'':30}{'s':>7}{'GiB':>7}{'kernels':>9}{'fused':>8}{'MB moved':>10}{'MB act.':>9}"]
    for build in builds:
        fused = f"{build['fused_attentions']}/{build['attentions']}"
        strips = build["options"][-1].removeprefix("--tail-")
        lines.append(
            f"{build['model'] + ', ' + strips:30}{build['seconds']:7.0f}{build['peak_gib']:7.2f}"
            f"{build['kernels']:9}{fused:>8}{build['traffic_mb']:10.0f}"
            f"{build['activation_mb']:9.1f}"
        )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build_cost",
        description="Build models with random weights for TensorRT-RTX, and report the time and "
        "memory each build takes beside what its audit and verification found.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), nargs="+", default=["vit_b_ade20k"],
                        metavar="NAME")  # fmt: skip
    precision = parser.add_mutually_exclusive_group()
    for name in ("fp16", "int8", "fp8"):
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name,
                               default="fp16", help="of the builds (default FP16)")  # fmt: skip
    parser.add_argument("--num-calibration-images", type=int, default=8, metavar="N",
                        help="of an INT8 or FP8 build (default %(default)s)")  # fmt: skip
    parser.add_argument("--target", choices=("trt-rtx", "ort"), nargs="+", default=["trt-rtx"],
                        help="what is built; one of them an engine (default trt-rtx)",
                        )  # fmt: skip
    parser.add_argument("--compute-capability", default="SM89", metavar="SM")
    parser.add_argument("--tail-strips", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
