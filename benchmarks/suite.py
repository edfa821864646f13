"""`python -m benchmarks.suite`: everything that `make bench` measures, one command after another.

Each step is a command of this project in a process of its own, printed as it would be typed, and
leaves one folder or file; `--resume` keeps what is there. Results are named
`<what>_<model>_<device>_<yyyymm>.json`.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import name_device
from engines.openvino_runtime import computes_bf16
from segvit.config import VARIANTS
from segvit.shipped import SHIPPED_MODELS

_EPILOG = """\
example:
  python -m benchmarks.suite --models vit_t_landcover --peers-model vit_b_ade20k --resume
"""
_VS = "--vs=eager,compile,ort,openvino,naive-onnx"
_CPU = ("--target", "ort", "openvino")
_GPU = ("trt-rtx", "--compute-capability=SM89")  # behind `_CPU`


@dataclass(frozen=True)
class Step:
    """One command, `module` and its arguments, and what it leaves."""

    module: str
    arguments: tuple[str, ...]
    output: Path

    def describe(self) -> str:
        """Return the command as it would be typed."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; return the exit code."""
    arguments = _parse_arguments(argv)
    arguments.artifacts.mkdir(parents=True, exist_ok=True)
    steps = [*list_shipped(arguments), *list_peers(arguments)]
    started = time.monotonic()
    for number, step in enumerate(steps, 1):
        kept = arguments.resume and step.output.exists()
        print(f"[{number}/{len(steps)}] {step.describe()}{'  (kept)' if kept else ''}", flush=True)
        if not kept:
            _run(step)
    print(f"{len(steps)} steps, {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


def list_shipped(arguments: argparse.Namespace) -> Iterator[Step]:
    """Yield what is measured of the shipped models: FP16 and INT8, engines, latency, parity."""
    folders, results = list[Path](), dict[str, list[str]](latency=[], parity=[])
    for model in arguments.models:
        built = []
        # What a GPU takes, and INT8 beside FP32 as CPUs want it.
        for name, chosen in {"fp16": ("--fp16", *_CPU, *_GPU), "int8": ("--int8", *_CPU, *_GPU),
                             "int8-cpu": ("--int8", *_CPU)}.items():  # fmt: skip
            folder = arguments.artifacts / f"{model}-{name}"
            yield _build(folder, f"--model={model}", *chosen, "--num-calibration-images=64")
            built.append(folder)
        latency, parity = (_name(arguments, what, model) for what in results)
        # Calls of a few milliseconds: five times as many cost little and narrow the intervals.
        options = (f"--rounds={5 * arguments.rounds}", "--end-to-end", "--streams=2")
        yield _measure(built, latency, *options)
        yield Step("benchmarks.parity", (*_list(built), *_CPU, f"--out={parity}"), parity)
        folders += built
        results["latency"].append(str(latency))
        results["parity"].append(str(parity))
    page = arguments.artifacts / "report.html"
    yield Step(
        "benchmarks.report",
        (*_list(folders), "--latency", *results["latency"], "--parity", *results["parity"],
         f"--out={page}"),
        page,
    )  # fmt: skip


def list_peers(arguments: argparse.Namespace) -> Iterator[Step]:
    """Yield the comparison of a published model, measured twice, and where its time goes.

    Its weights are random, but vary the labels, so that comparing these says something.
    """
    model = arguments.peers_model
    weights = arguments.artifacts / f"{model}.safetensors"
    yield Step("benchmarks.varied_weights", (f"--model={model}", f"--out={weights}"), weights)
    built = []
    calibration = "--num-calibration-images=32"
    precisions = {"fp32": ("--fp32", *_CPU),
                  "int8": ("--int8", "--float-type=fp32", calibration, *_CPU)}  # fmt: skip
    if computes_bf16():
        only = ("--target", "openvino")
        precisions["bf16"] = ("--bf16", *only)
        precisions["int8-bf16"] = ("--int8", "--float-type=bf16", calibration, *only)
    for name, chosen in precisions.items():
        folder = arguments.artifacts / f"{model}-{name}"
        yield _build(folder, f"--checkpoint={weights}", "--random-weights",
                     *chosen, "--num-images=4")  # fmt: skip
        built.append(folder)
    first, latency = arguments.artifacts / "first_run.json", _name(arguments, "latency", model)
    options = (f"--rounds={arguments.rounds}", f"--checkpoint={weights}")
    yield _measure(built, first, *options, "--no-memory")
    yield _measure(built, latency, *options, f"--against={first}")
    profile = _name(arguments, "cpu_profile", model)
    yield Step("benchmarks.cpu_profile", (*_list(built), *_CPU, f"--out={profile}"), profile)


def _build(folder: Path, *options: str) -> Step:
    return Step("export.build", (*options, f"--out={folder}"), folder / "manifest.json")


def _measure(built: Sequence[Path], out: Path, *options: str) -> Step:
    return Step("benchmarks.latency", (*_list(built), *_CPU, _VS, *options, f"--out={out}"), out)


def _list(folders: Sequence[Path]) -> tuple[str, ...]:
    return "--artifact", *map(str, folders)


def _name(arguments: argparse.Namespace, what: str, model: str) -> Path:
    month = datetime.now(UTC).strftime("%Y%m")
    path: Path = arguments.results / f"{what}_{model}_{name_device()}_{month}.json"
    return path


def _run(step: Step) -> None:
    """Run one step.

    Raises:
        RuntimeError: if it fails; it has said why.
    """
    done = subprocess.run([sys.executable, "-m", step.module, *step.arguments], check=False)
    if done.returncode:
        raise RuntimeError(
            f"'{step.describe()}' failed, see above; mend it and go on with --resume"
        )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description="Build, measure and report: the shipped models, and a published one beside "
        "what one would use instead.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=SHIPPED_MODELS, default=list(SHIPPED_MODELS), metavar="NAME",
        help=f"default {' '.join(SHIPPED_MODELS)}")  # fmt: skip
    add("--peers-model", choices=list(VARIANTS), default="vit_b_ade20k", metavar="NAME",
        help="with random weights (default %(default)s)")  # fmt: skip
    add(
        "--rounds",
        type=int,
        default=16,
        help="of the published model, five times as many of the shipped (default %(default)s)",
    )
    add("--artifacts", type=Path, default=Path("artifacts/bench"), metavar="DIR",
        help="what is built, and report.html (default %(default)s)")  # fmt: skip
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR",
        help="JSON files (default %(default)s)")  # fmt: skip
    add("--resume", action="store_true", help="keep what is there")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
