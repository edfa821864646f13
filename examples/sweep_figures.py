"""The table of models by precisions in docs/results.md, from benchmarks/results/sweep.json."""

from __future__ import annotations

from examples.results import Result, read_result


def render_sweep() -> list[str]:
    """Return what each build took, weighs, compiles to and keeps."""
    report = read_result("sweep")
    setup = report["setup"]
    lines = [
        "| | build | ONNX | kernels | MB moved | "
        + " | ".join(f"{name}, estimated" for name in setup["gpu"])
        + " | ONNX Runtime, p50 | labels as PyTorch |",
        "|---" * (7 + len(setup["gpu"])) + "|",
    ]
    for row in report["rows"]:
        name = f"`{row['model']}` {row['precision'].upper()}"
        cells = [f"failed: {row['error']}"] if row["error"] else _describe(row, setup["gpu"])
        lines.append(f"| {' | '.join([name, *cells])} |")
    machine = report["machine"]
    return [
        *lines,
        "",
        f"TensorRT-RTX for {setup['compute_capability']}; an estimate is the kernels' time at the "
        f"GPU's published peaks, not a measurement. ONNX Runtime on {machine['processor']}, "
        f"{setup['threads']} threads; labels on {setup['num_images']} test tiles.",
    ]


def _describe(row: Result, gpus: list[str]) -> list[str]:
    engine = row["engines"][0] if row["engines"] else {"estimated_ms": {}}
    estimates = [engine["estimated_ms"].get(name) for name in gpus]
    speed = row["latency"].get("ort", {}).get("p50_ms")
    return [
        f"{row['build_seconds']:.0f} s",
        f"{row['onnx_mb']:.1f} MB",
        str(engine.get("kernels", "")),
        f"{engine['traffic_mb']:.1f}" if engine.get("traffic_mb") else "",
        *("" if ms is None else f"{ms:.3f} ms" for ms in estimates),
        "" if speed is None else f"{speed:.1f} ms",
        f"{row['parity']['pixel_agreement']:.4f}",
    ]
