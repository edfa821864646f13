"""`python -m benchmarks.roofline`: what audited kernels would take on named GPUs; needs none."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine_roofline import (
    LIMITS,
    PARTS,
    SCHEMA,
    describe_engine,
    describe_gpus,
    describe_ledger,
    list_gpus,
    read_engine,
)
from benchmarks.flop_ledger import FlopLedger, make_ledger
from benchmarks.latency_results import read_latency
from benchmarks.result_files import write_result
from engines.roofline import DEFAULT_GPU, GPUS
from segvit.config import VARIANTS

# How far the account of operations may be from `segvit.info`.
INFO_TOLERANCE = 0.01
_EPILOG = """\
example:
  python -m benchmarks.roofline --artifact artifacts/vit_t_landcover-256x256-fp16 --gpu RTX-4090
"""
_NAME_WIDTH = 44


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate one artifact or two, or hold variants' operations against `segvit.info`."""
    arguments = _parse_arguments(argv)
    if arguments.check_info is not None:
        return _check_info(arguments)
    gpus = list_gpus(arguments.gpu)
    engines = [
        describe_engine(read_engine(folder, arguments.target), gpus)
        for folder in arguments.artifact
    ]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "gpus": describe_gpus(gpus),
        "limits": list(LIMITS),
        "artifacts": engines,
        "notes": _compare_subjects(engines),
    }
    if arguments.measured:
        report["measured"] = _match_measured(engines, arguments.measured)
    _finish(arguments, report, _format(report, arguments.top))
    return 0


def _compare_subjects(engines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what two artifacts differ in that a reader could take for a speed-up."""
    first = engines[0]
    return [
        f"{engine['artifact']} has another {key} than {first['artifact']}: {engine[key]} against "
        f"{first[key]}; the ratio is between two tasks, not two builds of one"
        for engine in engines[1:]
        for key in ("model", "input")
        if engine[key] != first[key]
    ]


def _match_measured(
    engines: Sequence[Mapping[str, Any]], path: Path
) -> list[dict[str, str | float]]:
    """Return, by artifact, what `benchmarks.latency` measured of its engine.

    Raises:
        ValueError: if it measured none of them.
    """
    result = read_latency(path)
    rows: list[dict[str, str | float]] = []
    for engine in engines:
        name = f"{engine['target'].split()[0]} {engine['precision']}"
        found = result.get("latency", {}).get(name)
        if found:
            rows.append({"artifact": engine["artifact"], "name": name, "p50_ms": found["p50_ms"]})
    if not rows:
        have = ", ".join(result.get("latency", {})) or "nothing"
        raise ValueError(
            f"'{path}' holds no measurement of these engines, only of {have}; run "
            "python -m benchmarks.latency --target trt-rtx (or trt) on the GPU first"
        )
    return rows


def _check_info(arguments: argparse.Namespace) -> int:
    """Hold the operations of variants' deploy graphs against `segvit.info`.

    Raises:
        ValueError: if one is further away than a hundredth.
    """
    from benchmarks.weightless import write_weightless_graph  # torch, which traces

    # The papers' variants: those with prefix tokens are not theirs.
    names = arguments.check_info or [n for n, c in VARIANTS.items() if not c.keeps_prefix]
    accounts: dict[str, FlopLedger] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_weightless_graph(VARIANTS[name], path)
            accounts[name] = make_ledger(path, VARIANTS[name])
        if not arguments.json:
            print(_format_account(name, describe_ledger(accounts[name])), flush=True)
    report = {name: describe_ledger(account) for name, account in accounts.items()}
    _finish(arguments, {"schema": SCHEMA, "accounts": report}, "")
    off = {n: a.deviation for n, a in accounts.items() if abs(a.deviation) > INFO_TOLERANCE}
    if off:
        shown = ", ".join(f"{name} by {deviation:+.2%}" for name, deviation in off.items())
        raise ValueError(f"operations differ from segvit.info by more than 1 %: {shown}")
    return 0


def _finish(arguments: argparse.Namespace, report: Mapping[str, Any], text: str) -> None:
    if arguments.out:
        write_result(arguments.out, report)
    if arguments.json:
        print(json.dumps(report, indent=2))
    elif text:
        print(text)
    if arguments.out and not arguments.json:
        print(f"wrote {arguments.out}")


def _format(report: Mapping[str, Any], top: int) -> str:
    engines, gpus = report["artifacts"], list(report["gpus"])
    lines = []
    for engine in engines:
        lines += _format_engine(engine, gpus, top)
    if len(engines) == 2:
        lines += _format_comparison(*engines)
    for row in report.get("measured", ()):
        engine = next(e for e in engines if e["artifact"] == row["artifact"])
        lines += ["", f"measured: {row['name']} p50 {row['p50_ms']:.3f} ms; measured / estimated:"]
        lines += [
            f"  {gpu:10}{row['p50_ms'] / estimate:8.2f}"
            for gpu, estimate in engine["estimated_ms"].items()
        ]
    lines += ["", "peaks (dense, tera-operations a second) and their sources:"]
    for name, gpu in report["gpus"].items():
        peaks = ", ".join(f"{kind} {value:g}" for kind, value in gpu["tera_ops"].items())
        lines.append(f"  {name:10}{peaks}; {gpu['bandwidth_gb_s']:g} GB/s ({gpu['source']})")
    lines += ["limits:", *(f"  {limit}" for limit in report["limits"])]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _format_engine(engine: Mapping[str, Any], gpus: Sequence[str], top: int) -> list[str]:
    built = ", ".join(engine["compute_capabilities"])
    lines = [
        f"{engine['artifact']}: {engine['model']}, {engine['precision']}, {engine['target']} "
        f"for {built}",
        f"{engine['launches']} launches, {engine['flops'] / 1e9:.2f} GFLOP, "
        f"{engine['bytes'] / 1e6:.1f} MB",
        f"{'estimated ms':14}{'launches':>9}{'GFLOP':>9}{'MB':>9}"
        + "".join(f"{gpu:>16}" for gpu in gpus),
    ]
    total = {key: engine[key] for key in ("launches", "flops", "bytes", "estimated_ms")}
    for name, part in [*engine["parts"].items(), ("all", total)]:
        times = "".join(_format_share(part, engine, gpu) for gpu in gpus)
        lines.append(f"{name:14}{part['launches']:9}{part['flops'] / 1e9:9.2f}"
                     f"{part['bytes'] / 1e6:9.1f}{times}")  # fmt: skip
    lines += [f"{gpu}: {reason}" for gpu, reason in engine["not_estimated"].items()]
    estimated = list(engine["estimated_ms"])
    gpu = DEFAULT_GPU if DEFAULT_GPU in estimated else estimated[0]
    slowest = sorted(engine["kernels"], key=lambda k: -k["estimated_us"][gpu])[:top]
    if slowest:
        lines.append(f"{f'longest on {gpu}':{_NAME_WIDTH}}{'MFLOP':>9}{'MB':>8}{'µs':>9}  bound")
    lines += [
        f"{kernel['name'][: _NAME_WIDTH - 1]:{_NAME_WIDTH}}{kernel['flops'] / 1e6:9.1f}"
        f"{kernel['bytes'] / 1e6:8.2f}{kernel['estimated_us'][gpu]:9.2f}  {kernel['bound'][gpu]}"
        for kernel in slowest
    ]
    account = engine["flop_account"]
    if account:
        return [*lines, _format_account("operations against segvit.info", account)]
    return [*lines, f"operations against segvit.info: {engine['flop_account_missing']}"]


def _format_share(part: Mapping[str, Any], engine: Mapping[str, Any], gpu: str) -> str:
    if gpu not in part["estimated_ms"]:
        return f"{'-':>16}"
    estimate = part["estimated_ms"][gpu]
    return f"{estimate:10.3f}{estimate / engine['estimated_ms'][gpu]:6.0%}"


def _format_account(name: str, account: Mapping[str, Any]) -> str:
    graph = account["products"] + account["norms"] + account["resizing"]
    lines = [
        f"{name}: graph {graph / 1e9:.3f} GFLOP, accounted {account['accounted'] / 1e9:.3f}, "
        f"segvit.info {account['info'] / 1e9:.3f} ({account['deviation']:+.3%})"
    ]
    for sign, key in (("+", "folded"), ("-", "added")):
        lines += [
            f"  {sign} {value / 1e6:11.3f} MFLOP  {what}" for what, value in account[key].items()
        ]
    return "\n".join(lines)


def _format_comparison(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    lines = ["", f"{second['artifact']} / {first['artifact']}:"]
    gpus = [gpu for gpu in first["estimated_ms"] if gpu in second["estimated_ms"]]
    lines += [
        f"  {key:24}{second[key] / first[key]:8.3f}" for key in ("launches", "bytes", "flops")
    ]
    for gpu in gpus:
        ratio = second["estimated_ms"][gpu] / first["estimated_ms"][gpu]
        lines.append(f"  {'estimated, ' + gpu:24}{ratio:8.3f}")
    for part in PARTS:
        pair = [engine["parts"].get(part) for engine in (first, second)]
        if None not in pair and gpus:
            before, after = (p["estimated_ms"][gpus[0]] for p in pair)
            lines.append(f"  {f'{part}, {gpus[0]}':24}{after / before:8.3f}")
    return lines


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description="Estimate an artifact's audited kernels at the published peaks of GPUs, by "
        "kernel and part; two artifacts are compared. No GPU is needed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--artifact", type=Path, nargs="+", metavar="DIR", help="one or two")
    source.add_argument("--check-info", nargs="*", choices=list(VARIANTS), metavar="MODEL",
                        help="hold variants' operations against segvit.info (default: the nine of "
                        "SegViT; half a minute each)")  # fmt: skip
    parser.add_argument("--gpu", nargs="+", choices=list(GPUS), metavar="NAME",
                        help=f"of {', '.join(GPUS)} (default: all)")  # fmt: skip
    parser.add_argument("--target", choices=("trt", "trt-rtx"), help="whose kernels")
    parser.add_argument("--measured", type=Path, metavar="FILE",
                        help="JSON of benchmarks.latency, to hold estimates against")  # fmt: skip
    parser.add_argument("--top", type=int, default=10, metavar="N", help="longest kernels shown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.artifact and len(arguments.artifact) > 2:
        parser.error("--artifact takes one folder or two to compare")
    if arguments.top < 0:
        parser.error("--top must be at least 0")
    return arguments


if __name__ == "__main__":
    run_main(main)
