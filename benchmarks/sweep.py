"""`python -m benchmarks.sweep`: models by precisions and sizes, what each build costs and keeps.

The JSON, `schema` 2: `command`, `machine`, `setup` (all that rows depend on beside what tells them
apart) and `rows`, one a model, precision and size, written after each one. A row has `model`,
`precision`, `size` (HxW) and `error`: None, or the line that ended it, and nothing else then. A
built row also has

- `random_weights`, `build_seconds`, `peak_gib`, `onnx_mb`, `not_built` (target to reason) and
  `parity`, the manifest's: labels are None of random weights, whose scores alone are compared;
- `engines`, one an engine: `target`, `version`, `build_seconds`, `engine_mb`, `kernels`,
  `attentions`, `fused_attentions`, `traffic_mb`, `gemm_datatypes`, `estimated_ms` (GPU to
  milliseconds at its published peaks, None where it lacks a datatype: see `engines.roofline`);
- `latency`, one a target that runs here: `benchmarks.timing`'s summary, one image a call; and
  `not_run`, the other targets with the reason.
"""

from __future__ import annotations

from segvit_deploy import describe_error, run_main

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.build_run import run_build
from benchmarks.machine import describe_machine
from benchmarks.report_sweep import SWEEP_SCHEMA
from benchmarks.result_files import describe_command, write_result
from benchmarks.timing import time_interleaved
from calibration.scheme import SCHEMES
from engines.kernels import parse_inspector
from engines.roofline import DEFAULT_GPU, GPUS, count_flops, estimate_ms
from engines.runtime import open_runtime
from engines.self_test import read_golden
from export.manifest import BuiltTarget, Manifest, read_verified, verify_file
from export.verify import GATES
from segvit.cli import parse_size
from segvit.config import VARIANTS
from segvit.images import Size
from segvit.shipped import SHIPPED_MODELS

ONNX_NAME = "model.onnx"
_SETUP = ("target", "compute_capability", "random_weights", "num_images",
          "num_calibration_images", "gpu", "rounds", "threads")  # fmt: skip
_EPILOG = """\
example:
  python -m benchmarks.sweep --models vit_t_landcover vit_t_shrunk_landcover \\
      --precisions fp16 int8 fp8 --out benchmarks/results/sweep.json
  python -m benchmarks.sweep --precisions fp16 --sizes 256x256 384x384 512x512 --out sizes.json
"""
Row = dict[str, Any]


class Case(NamedTuple):
    """What a row is of; `size` is HxW."""

    model: str
    precision: str
    size: str


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the table; return 1 where a row failed."""
    arguments = _parse_arguments(argv)
    setup = {name: getattr(arguments, name) for name in _SETUP}
    rows = _load_rows(arguments.out, setup) if arguments.resume else {}
    described = {
        "schema": SWEEP_SCHEMA,
        "command": describe_command("benchmarks.sweep", argv),
        "machine": describe_machine(),
        "setup": setup,
    }
    asked = [
        Case(model, precision, size)
        for model in arguments.models
        for size in _list_sizes(model, arguments.sizes)
        for precision in arguments.precisions
    ]
    left = [key for key in asked if key not in rows]
    bar = tqdm(left, initial=len(asked) - len(left), total=len(asked), unit="row",
               disable=arguments.json or None)  # fmt: skip
    try:
        for case in bar:
            bar.set_postfix_str(" ".join(case))
            rows[case] = make_row(case, arguments)
            write_result(arguments.out, {**described, "rows": list(rows.values())})
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"rows done are in {arguments.out}; go on with --resume") from None
    report = json.loads(arguments.out.read_text())
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{_format(report)}\nwrote {arguments.out}")
    return int(any(rows[key]["error"] for key in asked))


def make_row(case: Case, arguments: argparse.Namespace) -> Row:
    """Return one row; whatever ends it is its `error`.

    The build and the measurement each have a process of their own, so that neither memory nor a
    crash of one touches another.
    """
    row = {**case._asdict(), "error": None}
    options = _list_options(case, arguments)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(1, get_context("spawn")) as fresh,
        ):
            artifact = Path(folder) / "artifact"
            build = run_build(options, artifact)
            measured = fresh.submit(
                measure_artifact, artifact, arguments.gpu, arguments.rounds, arguments.threads
            ).result()
    except BrokenProcessPool:
        return {**row, "error": "the process that measured it died, see above"}
    except (ValueError, OSError, RuntimeError) as error:
        return {**row, "error": describe_error(error)}
    seconds, peak = round(build.seconds, 1), round(build.peak_gib, 2)
    return {**row, "build_seconds": seconds, "peak_gib": peak, **measured}


def _list_sizes(model: str, asked: Sequence[Size] | None) -> list[str]:
    side = VARIANTS[model].image_size
    return [f"{height}x{width}" for height, width in asked or [(side, side)]]


def _list_options(case: Case, arguments: argparse.Namespace) -> list[str]:
    options = [f"--model={case.model}", f"--{case.precision}", f"--size={case.size}"]
    options += [f"--num-images={arguments.num_images}"]
    options += [f"--target={target}" for target in arguments.target]
    options += [f"--compute-capability={arguments.compute_capability}"]
    if arguments.random_weights and case.model not in SHIPPED_MODELS:
        options += ["--random-weights"]
    if case.precision in SCHEMES:
        options += [f"--num-calibration-images={arguments.num_calibration_images}"]
    return options


def measure_artifact(artifact: Path, gpus: Sequence[str], rounds: int, threads: int) -> Row:
    """Return what an artifact holds, what its engines are estimated at, and what it takes here.

    Args:
        artifact: the folder.
        gpus: names in `engines.roofline.GPUS`.
        rounds: calls to time, of each target in turn.
        threads: of CPU runtimes.

    Raises:
        ManifestError: if a file is not as built.
    """
    manifest = Manifest.read(artifact)
    size = sum((artifact / name).stat().st_size for name in manifest.files
               if name.startswith(ONNX_NAME))  # fmt: skip
    engines = [entry for entry in manifest.targets if entry.audit and entry.layers]
    return {
        "random_weights": manifest.model.random_weights,
        "onnx_mb": round(size / 1e6, 2),
        "parity": manifest.parity and asdict(manifest.parity),
        "not_built": {entry.target: entry.reason for entry in manifest.not_built},
        "engines": [_describe_engine(artifact, manifest, entry, gpus) for entry in engines],
        **_measure_latency(artifact, manifest, rounds, threads),
    }


def _describe_engine(
    artifact: Path, manifest: Manifest, entry: BuiltTarget, gpus: Sequence[str]
) -> Row:
    audit = entry.audit
    assert audit is not None
    return {
        "target": entry.target,
        "version": entry.version,
        "compute_capabilities": list(entry.compute_capabilities),
        "build_seconds": entry.build_seconds,
        "engine_mb": round((artifact / entry.file).stat().st_size / 1e6, 2),
        "kernels": audit.kernels,
        "attentions": audit.attentions,
        "fused_attentions": audit.fused_attentions,
        "traffic_mb": audit.traffic_mb,
        "gemm_datatypes": audit.gemm_datatypes,
        "estimated_ms": _estimate(artifact, manifest, entry, gpus),
    }


def _estimate(
    artifact: Path, manifest: Manifest, entry: BuiltTarget, gpus: Sequence[str]
) -> dict[str, float | None]:
    assert entry.layers is not None
    layers = json.loads(read_verified(artifact, entry.layers, manifest))["Layers"]
    kernels, estimates = parse_inspector(layers), dict[str, float | None]()
    flops = count_flops(verify_file(artifact, ONNX_NAME, manifest))
    for name in gpus:
        try:
            estimates[name] = round(estimate_ms(kernels, flops, GPUS[name]), 4)
        except ValueError:  # sizes are fixed here, so it lacks a datatype
            estimates[name] = None
    return estimates


def _measure_latency(artifact: Path, manifest: Manifest, rounds: int, threads: int) -> Row:
    """Return the latency of each target that runs here, interleaved, and why others do not."""
    images = read_golden(artifact, manifest).images[: manifest.batch[1]]
    not_run: dict[str, str] = {}
    calls = {}
    with ExitStack() as stack:
        for target in dict.fromkeys(entry.target for entry in manifest.targets):
            try:
                runtime = stack.enter_context(open_runtime(artifact, target, threads=threads))
                runtime.infer(images)
            except (ValueError, RuntimeError) as error:
                not_run[target] = describe_error(error)
                continue
            calls[target] = partial(runtime.infer, images)
        timed = time_interleaved(calls, rounds, warm_up_seconds=0.5, progress=False)
    latency = {name: asdict(summary) for name, summary in timed.items()}
    return {"latency": latency, "not_run": not_run}


def _load_rows(path: Path, setup: Mapping[str, Any]) -> dict[Case, Row]:
    """Return the built rows of an earlier run; those that failed are tried again.

    Raises:
        ValueError: if the file is none of this schema, or of another setup.
    """
    if not path.exists():
        return {}
    try:
        report = json.loads(path.read_bytes())
        schema, found, rows = (report[name] for name in ("schema", "setup", "rows"))
        built = [row for row in rows if not row["error"]]
        known = {Case(*(row[name] for name in Case._fields)): row for row in built}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' holds no sweep to go on with ({error}); leave out --resume"
        ) from error
    compared = {name: (wanted, found.get(name)) for name, wanted in setup.items()}
    for name, (wanted, got) in {"schema": (SWEEP_SCHEMA, schema), **compared}.items():
        if wanted != got:
            raise ValueError(
                f"'{path}' is of another {name.replace('_', '-')}: expected {wanted}, got {got}; "
                "give the same options, another --out, or leave out --resume"
            )
    return known


def _format(report: Mapping[str, Any]) -> str:
    gpus = report["setup"]["gpu"]
    lines = [f"{'':46}{'build s':>8}{'ONNX MB':>9}{'kernels':>9}{'MB moved':>10}"
             + "".join(f"{name + ' ms':>13}" for name in gpus)
             + f"{'ORT ms':>9}{'labels':>9}{'score RMS':>11}"]  # fmt: skip
    for row in report["rows"]:
        name = f"{row['model']} {row['precision']} {row['size']}"
        if row["error"]:
            lines.append(f"{name:46}failed: {row['error']}")
            continue
        engine = row["engines"][0] if row["engines"] else {}
        estimates = (engine.get("estimated_ms", {}).get(name) for name in gpus)
        parity = row["parity"] or {"details": {}}
        lines.append(
            f"{name:46}{row['build_seconds']:8.0f}{row['onnx_mb']:9.1f}"
            f"{_show(engine.get('kernels'), 9, 'd')}{_show(engine.get('traffic_mb'), 10, '.0f')}"
            + "".join(_show(value, 13, ".3f") for value in estimates)
            + _show(row["latency"].get("ort", {}).get("p50_ms"), 9, ".1f")
            + _show(parity.get("pixel_agreement"), 9, ".4f")
            + _show(parity["details"].get("score_rms"), 11, ".1e")
        )
    return "\n".join(lines)


def _show(value: float | None, width: int, style: str) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}{style}}"


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description="Build models in several precisions and sizes, each in its own process, and "
        "tabulate build time, weight, kernels, bytes, estimated and measured latency, and parity.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(VARIANTS), default=list(SHIPPED_MODELS),
        metavar="NAME", help=f"default {' '.join(SHIPPED_MODELS)}")  # fmt: skip
    add("--precisions", nargs="+", choices=list(GATES), default=["fp32", "fp16", "int8", "fp8"],
        help="default fp32 fp16 int8 fp8")  # fmt: skip
    add("--sizes", nargs="+", type=parse_size, metavar="HxW", help="default each model's own")
    add("--target", nargs="+", default=["ort", "trt-rtx"], metavar="NAME",
        help="default ort trt-rtx")  # fmt: skip
    add("--compute-capability", default=GPUS[DEFAULT_GPU].compute_capability, metavar="SM",
        help="that TensorRT-RTX compiles for (default %(default)s)")  # fmt: skip
    add("--gpu", nargs="+", choices=list(GPUS), default=[DEFAULT_GPU], metavar="NAME",
        help=f"to estimate for: {', '.join(GPUS)} (default {DEFAULT_GPU})")  # fmt: skip
    add("--random-weights", action="store_true", help="for models that ship without a checkpoint")
    add("--num-images", type=int, default=16, metavar="N",
        help="that parity is measured on (default %(default)s)")  # fmt: skip
    add("--num-calibration-images", type=int, default=32, metavar="N",
        help="of INT8 and FP8 (default %(default)s)")  # fmt: skip
    add("--rounds", type=int, default=20, help="calls timed of each target (default %(default)s)")
    add("--threads", type=int, default=2, help="of CPU runtimes (default %(default)s)")
    add("--out", type=Path, default=Path("benchmarks/results/sweep.json"), metavar="FILE",
        help="default %(default)s")  # fmt: skip
    add("--resume", action="store_true", help="keep the rows that --out has; try failed ones again")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    for name in ("num_images", "num_calibration_images", "rounds", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
