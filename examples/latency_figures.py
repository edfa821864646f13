"""The tables of latency beside peers in docs/results.md, from benchmarks/results."""

from __future__ import annotations

import json

from examples.results import RESULTS, Result, describe_machine, read_result, show_ratio
from segvit.shipped import SHIPPED_MODELS

_EAGER, _PLAIN = "PyTorch eager", "plain export on ort"
_PEERS = (_EAGER, "torch.compile", _PLAIN)
_MODEL = "vit_b_ade20k"
# Ours over theirs: in FP32, and in the best precision.
_AIMS = {_EAGER: (0.62, 0.28), _PLAIN: (0.85, 0.40)}


def render_peers() -> list[str]:
    """Return a published model beside what one would use instead, and whether two runs agree."""
    result = _read_latest("latency", _MODEL)
    return [*_render_table(result), "", *_render_aims(result), "", _render_runs(result)]


def render_shipped_latency() -> list[str]:
    """Return the shipped models beside what one would use instead."""
    tables = [_render_table(_read_latest("latency", model)) for model in SHIPPED_MODELS]
    return [line for table in tables for line in [*table, ""]][:-1]


def render_variants() -> list[str]:
    """Return what the Shrunk head saves of the time, beside what it saves of the arithmetic."""
    result = read_result("variants")
    lines = ["| | GMAC | p50 |", "|---|---|---|"]
    for name, row in result["variants"].items():
        lines.append(f"| `{name}` | {row['gmac']:.1f} | {row['latency']['p50_ms']:,.0f} ms |")
    ratio = result["ratio"]
    return [
        *lines,
        "",
        f"Time {show_ratio(ratio)}, arithmetic {result['gmac_ratio']:.3f}: "
        f"{ratio['ratio'] / result['gmac_ratio'] - 1:+.1%}. {result['target']} "
        f"{result['precision']}, random weights, {describe_machine(result)}.",
    ]


def render_cpu_profile() -> list[str]:
    """Return where a call's time goes on the CPU runtimes, and how fast products are computed."""
    result = _read_latest("cpu_profile", _MODEL)
    lines = [
        f"| `{_MODEL}` | call | products | GFLOP/s | encoder | head | tail |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        cells = [
            f"{run['artifact'].removeprefix(f'{_MODEL}-')} on {run['target']}",
            f"{run['call_ms']:,.0f} ms",
            f"{run['products_ms'] / run['operators_ms']:.0%}",
            f"{run['products_gflops']:,.0f}",
            *(f"{run['parts'][part]['ms']:,.0f} ms" for part in ("encoder", "head", "tail")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first, peak = result["runs"][0], result["peak_gflops"]["fp32"]
    gflop = first["products_gflops"] * first["products_ms"] / 1e3
    return [
        *lines,
        "",
        f"Means of {result['calls']} calls. In PyTorch FP32 products of two large matrices reached "
        f"{peak:,.0f} GFLOP/s just before: at that rate the model's {gflop:,.0f} GFLOP alone take "
        f"{gflop / peak * 1e3:,.0f} ms. {describe_machine(result)}.",
    ]


def render_sweep(name: str) -> list[str]:
    """Return a sweep: models by precisions or sizes."""
    result = read_result(name)
    setup, gpu = result["setup"], result["setup"]["gpu"][0]
    lines = [
        "| model | precision | size | build | ONNX | kernels | moved "
        f"| estimated, {gpu} | ONNX Runtime | pixels equal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        engine = row["engines"][0]
        estimate = engine["estimated_ms"][gpu]
        cells = [
            f"`{row['model']}`",
            row["precision"].upper(),
            row["size"],
            f"{row['build_seconds']:.0f} s",
            f"{row['onnx_mb']:.1f} MB",
            str(engine["kernels"]),
            f"{engine['traffic_mb']:.0f} MB",
            "" if estimate is None else f"{estimate:.2f} ms",
            f"{row['latency']['ort']['p50_ms']:.1f} ms",
            f"{row['parity']['pixel_agreement']:.5f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Engines for {setup['compute_capability']}; parity on {setup['num_images']} land-cover "
        f"tiles, {setup['rounds']} calls timed. {describe_machine({**result, **setup})}.",
    ]


def _read_latest(what: str, model: str) -> Result:
    """Return the newest result of a model, of whatever machine."""
    results = [json.loads(p.read_text()) for p in RESULTS.glob(f"{what}_{model}_*_??????.json")]
    return max(results, key=lambda result: str(result["measured"]))


def _render_table(result: Result) -> list[str]:
    height, width = result["subject"]["size"]
    lines = [
        f"| `{result['subject']['model']}`, {height}x{width} | p50 | of eager | of plain export "
        "| labels as PyTorch | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, latency in result["latency"].items():
        ratios, labels = result["ratios"][name], result["labels_equal_to_golden"]
        cells = [
            name,
            f"{latency['p50_ms']:,.1f} ms",
            *(show_ratio(ratios[peer]) if peer in ratios else "" for peer in (_EAGER, _PLAIN)),
            f"{labels[name]:.5f}",
            f"{result['peak_mib'][name]:,.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"{describe_machine(result)}, batch {result['batch']}, {result['rounds']} interleaved "
        "rounds; ratios are medians of rounds, with intervals of 95 %; other processes kept "
        f"{result['load']['during']['other_cores']:.2f} cores busy.",
    ]


def _render_aims(result: Result) -> list[str]:
    ours = [name for name in result["latency"] if name not in _PEERS]
    groups = [[name for name in ours if name.endswith("fp32")], ours]
    lines = ["| ours over | FP32 | aim | best precision | aim |", "|---|---|---|---|---|"]
    for peer, aims in _AIMS.items():
        cells = [peer]
        for names, aim in zip(groups, aims, strict=True):
            best = min(names, key=lambda name: float(result["ratios"][name][peer]["ratio"]))
            cells += [f"{show_ratio(result['ratios'][best][peer])}, {best}", f"≤ {aim:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _render_runs(result: Result) -> str:
    ratios = result["against"]["ratios"]
    apart = sorted(pair for pair, row in ratios.items() if not row["overlap"])
    overlap = f"{len(ratios) - len(apart)} of {len(ratios)}"
    which = f"; not those of {', '.join(apart)}" if apart else ""
    return f"Measured twice: the intervals of {overlap} ratios overlap{which}."
