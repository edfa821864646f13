"""`python -m benchmarks.cpu_profile`: where an artifact's time goes on a CPU, operator by operator.

The times are those of the runtime's own profiler, operators in the order and fusion that it chose;
operations are counted from the graph, a multiply-add being two.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engine_roofline import PARTS
from benchmarks.machine import describe_machine
from benchmarks.operator_times import PROFILERS, Operator
from benchmarks.result_files import Result, describe_command, write_result
from engines.roofline import count_flops
from engines.runtime import verify_onnx
from engines.self_test import read_golden
from engines.target import Target
from export.manifest import Manifest

SCHEMA = 1
_EPILOG = """\
example:
  python -m benchmarks.cpu_profile --artifact artifacts/vit_t_landcover-256x256-fp32 --top 5
"""
_PRODUCTS = frozenset({"Conv", "Convolution", "FullyConnected", "FusedMatMul", "Gemm", "MatMul",
                       "MatMulIntegerToFloat"})  # fmt: skip
_MATRIX = 2048  # large enough for a CPU's peak, small enough for a second


def main(argv: Sequence[str] | None = None) -> int:
    """Profile artifacts on CPU runtimes; return the exit code."""
    arguments = _parse_arguments(argv)
    manifests = {folder: Manifest.read(folder) for folder in arguments.artifact}
    pairs = [
        (folder, target)
        for folder, manifest in manifests.items()
        for target in arguments.target
        if target in {entry.target for entry in manifest.targets}
    ]
    if not pairs:
        raise ValueError(
            f"no artifact is built for {' or '.join(arguments.target)}; give others with --target"
        )
    report: Result = {
        "schema": SCHEMA,
        "command": describe_command("benchmarks.cpu_profile", argv),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "threads": arguments.threads,
        "calls": arguments.calls,
        "peak_gflops": {"fp32": measure_peak_gflops(arguments.threads)},
        "runs": [profile(folder, manifests[folder], target, arguments) for folder, target in pairs],
    }
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(report, arguments.top))
    return 0


def profile(folder: Path, manifest: Manifest, target: str, arguments: argparse.Namespace) -> Result:
    """Return what one call of an artifact takes on a runtime, by part, kind and operator.

    Args:
        folder: the artifact.
        manifest: its manifest.
        target: of `PROFILERS`.
        arguments: threads, calls, and how many of the slowest operators to return.

    Raises:
        ManifestError: if the ONNX file is not the one the manifest lists.
        ValueError: if the runtime cannot load it.
    """
    path = verify_onnx(folder, manifest, Target(target))
    images = read_golden(folder, manifest).images[: manifest.batch[1]]
    operators, seconds = PROFILERS[target](path, images, arguments.threads, arguments.calls)
    flops = count_flops(path)
    total = sum(flops.values())
    rows = _describe(operators, flops)
    in_products = sum(row["ms"] for row in rows if row["gflop"] != 0)
    return {
        "artifact": folder.name,
        "precision": manifest.precision,
        "target": target,
        "call_ms": median(seconds) * 1e3,
        "operators_ms": sum(row["ms"] for row in rows),
        "products_ms": in_products,
        "products_gflops": total / in_products / 1e6,
        "parts": _group(rows, "part", PARTS),
        "kinds": _group(rows, "kind"),
        "slowest": sorted(rows, key=lambda row: -row["ms"])[: arguments.top],
    }


def measure_peak_gflops(threads: int) -> float:
    """Return what PyTorch's FP32 product of two large matrices reaches, in 1e9 operations/s."""
    import torch  # the profile itself needs none

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.ones(_MATRIX, _MATRIX), torch.ones(_MATRIX, _MATRIX)
        seconds = []
        for _ in range(8):
            started = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2 * _MATRIX**3 / min(seconds) / 1e9


def _describe(operators: Sequence[Operator], flops: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return operators with their parts and the operations of the products that they compute.

    One of no node of the graph goes with its predecessor; a product of none has operations, but how
    many is unknown.
    """
    rows, part = [], "other"
    for operator in operators:
        first = operator.nodes[0].split("/")[0].replace("_", " ") if operator.nodes else part
        part = first if first in PARTS else "other"
        gflop: float | None = sum(flops.get(node, 0.0) for node in operator.nodes) / 1e9
        if not gflop and operator.kind.split()[0] in _PRODUCTS:
            gflop = None
        rows.append({**asdict(operator), "part": part, "gflop": gflop})
    return rows


def _group(
    rows: Iterable[Mapping[str, Any]], key: str, order: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return counts, times and operations by a key: in an order, or the slowest first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    summed: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        known = all(row["gflop"] is not None for row in group)
        summed[name] = {
            "operators": len(group),
            "ms": sum(row["ms"] for row in group),
            "gflop": sum(row["gflop"] for row in group) if known else None,
        }
    names = order or sorted(summed, key=lambda name: -summed[name]["ms"])
    return {name: summed[name] for name in names if name in summed}


def _format(report: Result, top: int) -> str:
    peak = report["peak_gflops"]["fp32"]
    lines = [
        f"{report['machine']['processor']}, {report['threads']} threads; FP32 products of large "
        f"matrices reach {peak:.0f} GFLOP/s"
    ]
    for run in report["runs"]:
        lines += [
            "",
            f"{run['artifact']} on {run['target']}: {run['call_ms']:.1f} ms a call, "
            f"{run['products_ms']:.1f} ms of it products at {run['products_gflops']:.0f} GFLOP/s",
        ]
        for title, groups in (("part", run["parts"]), ("kind", run["kinds"])):
            lines.append(f"  {title:34}{'count':>6}{'ms':>10}{'share':>8}{'GFLOP/s':>9}")
            for name, group in list(groups.items())[: top if title == "kind" else None]:
                lines.append(f"  {name:34}{group['operators']:6}{_show_time(group, run)}")
        lines.append("  slowest operators")
        for row in run["slowest"]:
            label = f"{row['kind']} {', '.join(row['nodes']) or row['name']}"
            lines.append(f"  {_shorten(label, 40):40}{_show_time(row, run)}")
    return "\n".join(lines)


def _show_time(group: Mapping[str, Any], run: Result) -> str:
    rate = f"{group['gflop'] / group['ms'] * 1e3:9.0f}" if group["gflop"] else ""
    return f"{group['ms']:10.2f}{group['ms'] / run['operators_ms']:8.1%}{rate}"


def _shorten(text: str, width: int) -> str:
    return text if len(text) < width else f"{text[: width - 4]}..."


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_profile",
        description="Show where an artifact's time goes on CPU runtimes: by part, by kind of "
        "operator, and which operators are slowest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--artifact", type=Path, nargs="+", required=True, metavar="DIR", help="built folders")
    add("--target", nargs="+", choices=list(PROFILERS), default=list(PROFILERS), metavar="NAME",
        help=f"those of them that an artifact has (default {' '.join(PROFILERS)})")  # fmt: skip
    add("--calls", type=int, default=10, help="averaged, after one untimed (default %(default)s)")
    add("--threads", type=int, default=2, help="default %(default)s")
    add("--top", type=int, default=10, metavar="N",
        help="kinds that are shown, and operators (default %(default)s)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    for name in ("calls", "threads", "top"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
