"""`python -m benchmarks.variants`: two variants in turns, their time beside their arithmetic."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.build_run import run_build
from benchmarks.intervals import compare_paired
from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from benchmarks.timing import Schedule, measure_rounds, summarise
from engines.runtime import open_runtime
from engines.self_test import read_golden
from engines.target import Target
from export.manifest import Manifest
from segvit.config import VARIANTS, find_variant
from segvit.macs import count_macs

_EPILOG = """\
example:
  python -m benchmarks.variants --models vit_l_ade20k vit_l_shrunk_ade20k --out variants.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Build both with random weights and time them; the ratio is of the second to the first."""
    arguments = _parse_arguments(argv)
    first, second = arguments.models
    options = ["--random-weights", f"--{arguments.precision}", f"--target={arguments.target}",
               "--num-images=1"]  # fmt: skip
    with ExitStack() as stack:
        calls = {}
        for name in arguments.models:
            folder = arguments.artifacts / f"{name}-{arguments.precision}-{arguments.target}"
            if not (folder / "manifest.json").exists():
                run_build([f"--model={name}", *options], folder)
            runtime = stack.enter_context(
                open_runtime(folder, arguments.target, threads=arguments.threads)
            )
            images = read_golden(folder, Manifest.read(folder)).images[:1]
            calls[name] = partial(runtime.infer, images)
        schedule = Schedule(arguments.rounds, warm_up_s=0.0, settle_s=0.005)
        samples = measure_rounds(calls, schedule, not arguments.json)
    gmac = {name: sum(count_macs(find_variant(name)).values()) / 1e9 for name in samples}
    report = {
        "machine": describe_machine(),
        "precision": arguments.precision,
        "target": arguments.target,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "variants": {
            name: {"gmac": gmac[name], "latency": asdict(summarise(values))}
            for name, values in samples.items()
        },
        "ratio": asdict(compare_paired(samples[second], samples[first])),
        "gmac_ratio": gmac[second] / gmac[first],
    }
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(report))
    return 0


def _format(report: dict[str, Any]) -> str:
    lines = [
        f"{name:32}{row['gmac']:9.1f} GMAC{row['latency']['p50_ms']:10.1f} ms"
        for name, row in report["variants"].items()
    ]
    ratio = report["ratio"]
    return "\n".join([
        *lines,
        f"second to first: time {ratio['ratio']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f}), "
        f"arithmetic {report['gmac_ratio']:.3f}",
    ])  # fmt: skip


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.variants",
        description="Build two variants with random weights, time them in turns, and set the ratio "
        "beside that of their multiply-accumulates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs=2, choices=list(VARIANTS), metavar="NAME",
        default=["vit_l_ade20k", "vit_l_shrunk_ade20k"],
        help="the second is compared with the first (default %(default)s)")  # fmt: skip
    add("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="default %(default)s")
    add("--target", choices=list(Target), default="ort", help="default %(default)s")
    add("--rounds", type=int, default=10, help="calls of each (default %(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    add("--artifacts", type=Path, default=Path("artifacts/variants"), metavar="DIR",
        help="where they are built, once (default %(default)s)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
