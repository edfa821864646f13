"""Tables of what embedding costs: runtimes over their libraries, slide graphs over a loop."""

from __future__ import annotations

import json

from examples.results import RESULTS, Result, read_result

_KB = 1000


def render_overhead() -> list[str]:
    """Return what `infer` adds to the bare call of each library."""
    reports = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("runtime_overhead_*.json"))]
    lines = [
        "| on | bare call, p50 | `infer` | into `out` | allocated a call | C++ to Python |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        latency, allocated = report["latency"], report["allocated"]
        added = [f"{report['overhead'][name]:+.1%}" for name in ("infer", "infer into out")]
        cells = [
            f"{report['target']}, `{report['artifact']}`",
            f"{latency['bare call']['p50_ms']:.1f} ms",
            *added,
            f"{allocated['peak_bytes']['infer into out'] / _KB:.1f} kB of "
            f"{allocated['image_bytes'] / _KB:.0f}",
            f"{report['cpp']['ratio_to_python']:.3f}" if "cpp" in report else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{_describe(reports[0])}; all calls of a row interleaved in one run."]


def render_slide_graph() -> list[str]:
    """Return windows in the graph beside a Python loop over windows."""
    report = read_result("slide_graph")
    height, width = report["image_size"]
    lines = [
        f"| `{report['model']}` {report['precision']}, {height}x{width}, {report['target']} | p50 "
        "| peak memory of the process |",
        "|---|---|---|",
    ]
    for name, latency in report["latency"].items():
        memory = f"{report['peak_mib'][name]:,.0f} MiB"
        lines.append(f"| {name} | {latency['p50_ms'] / 1e3:.2f} s | {memory} |")
    return [
        *lines,
        "",
        f"Graph to loop {report['graph_to_loop']:.2f}, {report['labels_equal']:.5f} of labels "
        f"equal; {_describe(report)}, {report['rounds']} interleaved rounds.",
    ]


def _describe(report: Result) -> str:
    return f"{report['machine']['processor']}, {report['threads']} threads"
