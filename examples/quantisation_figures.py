"""The figures of docs/quantization.md, from benchmarks/results."""

from __future__ import annotations

from examples.results import Result, describe_machine, read_result, show_ratio

# Of benchmarks.latency, which calls a row after its target and precision.
_CPU_ROWS = {
    "ort fp32": "FP32",
    "ort int8": "INT8, the rest FP16",
    "ort int8 (int8-fp32)": "INT8, the rest FP32 (`--float-type fp32`)",
}


def render_quantised() -> list[str]:
    """Return what INT8 and FP8 keep of the accuracy, and what they compile to."""
    result = read_result("quantised")
    lines = [
        "| | precision | mIoU FP32 | mIoU | labels as FP32 | score error, relative RMS |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["accuracy"]:
        figures = (f"{row['miou_fp32']:.4f}", f"{row['miou']:.4f}", f"{row['agreement']:.4f}")
        cells = (f"`{row['model']}`", row["precision"].upper(), *figures, f"{row['score_rms']:.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    first = result["accuracy"][0]
    lines += [
        "",
        f"mIoU on the whole test split, labels on {first['source']}; {first['calibration']}.",
        "",
        "| | precision | kernels | attentions fused | products | MB moved | engine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["builds"]:
        fused = f"{row['fused_attentions']} of {row['attentions']}"
        products = " + ".join(f"{count} {name}" for name, count in row["gemm_datatypes"].items())
        figures = (str(row["kernels"]), fused, products, f"{row['traffic_mb']:,.0f}")
        cells = (f"`{row['model']}`", row["precision"].upper(), *figures)
        lines.append(f"| {' | '.join(cells)} | {row['engine_mb']:.0f} MB |")
    large = read_result("build_int8")["builds"][0]
    return [
        *lines, "",
        f"{result['builds'][-1]['compiler']}, random weights, batch 1. `{large['model']}` at 640 "
        f"px calibrates, builds and verifies in INT8 in {large['peak_gib']:.1f} GiB: "
        f"{large['kernels']} kernels, {large['fused_attentions']} of {large['attentions']} "
        f"attentions fused, an engine of {large['engine_mb']:.0f} MB.",
    ]  # fmt: skip


def render_quantised_cpu() -> list[str]:
    """Return the latencies of FP32 and INT8 on ONNX Runtime's CPU provider."""
    result = read_result("quantised_cpu")
    lines = ["| `vit_b_ade20k`, 512 px | p50 | of FP32 |", "|---|---|---|"]
    for name, figures in result["latency"].items():
        ratio = result["ratios"][name].get("ort fp32")
        shown = show_ratio(ratio) if ratio else "1.00"
        lines.append(f"| {_CPU_ROWS.get(name, name)} | {figures['p50_ms']:,.0f} ms | {shown} |")
    runs = f"{result['rounds']} interleaved rounds, intervals of 95 %"
    return [*lines, "", f"{describe_machine(result)}, {runs}."]


def render_frontier() -> list[str]:
    """Return what a budget search measured, the point that was built in bold."""
    result = read_result("frontier")
    budget = result["budget_points"]
    lines = [
        "| products in INT8 | mIoU drop, points | labels as float | estimated | ONNX Runtime CPU |",
        "|---|---|---|---|---|",
    ]
    for point in result["points"]:
        speed = point["speed"]
        cells = [
            str(point["quantised"]),
            f"{point['miou_drop_points']:.3f}",
            f"{point['label_agreement']:.4f}",
            f"{speed['estimated_ms']:.4f} ms",
            f"{speed['measured_ratio']:.2f} of float",
        ]
        if point["is_built"]:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    setup, estimated = result["setup"], result["float_speed"]["estimated_ms"]
    lines.append(f"| 0 | 0 | 1 | {estimated:.4f} ms | 1 |")
    where = setup["speed"].split(" + ")[0]
    about = f"`{result['model']}`, {setup['images']}, a budget of {budget:g}; {where}."
    return [*lines, "", f"{about} In bold: what was built."]


def render_budget() -> list[str]:
    """Return what searched builds keep on images that neither calibrated nor were searched on."""
    rows = read_result("budget")["rows"]
    lines = [
        "| | precision | products quantised | mIoU FP32 | mIoU | labels as FP32 "
        "| attentions fused |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parity, audit = row["parity"], row["audit"]
        cells = (
            f"`{row['model']}`",
            row["precision"].upper(),
            f"{row['quantised']} of {row['products']}",
            f"{parity['miou_reference']:.4f}",
            f"{parity['miou']:.4f}",
            f"{parity['pixel_agreement']:.4f}",
            f"{audit['fused_attentions']} of {audit['attentions']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    advised = sum(row["recommends_float"] for row in rows)
    return [*lines, "", f"On {rows[0]['parity']['details']['source']}, all that are mostly land; "
            f"{advised} of {len(rows)} builds recommend `--fp16` instead."]  # fmt: skip


def render_quantisers() -> list[str]:
    """Return other quantisers' graphs beside ours, and why some have no figures."""
    result = read_result("quantisers")
    lines = [
        "| | given | chose the products | mIoU | labels as FP32 | score error, relative RMS "
        "| kernels | attentions fused | products | MB moved | engine build |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    skipped = [r for r in result["rows"] if r["failures"].get("quantise", "").startswith("skipped")]
    rows = [row for row in result["rows"] if row not in skipped]
    models = list(dict.fromkeys(row["model"] for row in rows))
    reasons = [f"- Not measured here: {name}." for name in sorted({r["tool"] for r in skipped})]
    for row in rows:
        name = row["name"] if len(models) == 1 else f"`{row['model']}`, {row['name']}"
        nodes = {"none": "", "ours": "we"}.get(
            row["tool"], "we" if row["nodes"] == "ours" else "it"
        )
        accuracy = row["accuracy"] and (
            f"{row['accuracy']['miou']:.4f}",
            f"{row['accuracy']['pixel_agreement']:.4f}",
            f"{row['accuracy']['score_rms']:.1e}",
        )
        cells = (name, row["source"].upper(), nodes, *(accuracy or ("none",) * 3))
        lines.append(f"| {' | '.join((*cells, *_engine_cells(row['engine'])))} |")
        reasons += [
            f"- {name}, given {row['source'].upper()}, {stage}: {_shorten(reason)}"
            for stage, reason in row["failures"].items()
        ]
    tools = {"ONNX Runtime": result["machine"]["onnxruntime"]}
    if result["versions"]["modelopt"]:
        tools["ModelOpt"] = result["versions"]["modelopt"]["nvidia-modelopt"]
    tools["trt-rtx"] = f"{result['versions']['trt-rtx']}, {result['compute_capability']}"
    versions = "; ".join(f"{name} {version}" for name, version in tools.items())
    about = f"{result['images']}, calibrated on {result['calibration']}"
    model = f"`{models[0]}`, " if len(models) == 1 else ""
    return [*lines, "", *reasons, *([""] if reasons else []), f"{model}{about}; {versions}."]


def _engine_cells(engine: Result | None) -> tuple[str, ...]:
    if engine is None:
        return ("none",) * 5
    return (
        str(engine["kernels"]),
        f"{engine['fused_attentions']} of {engine['attentions']}",
        " + ".join(f"{count} {name}" for name, count in engine["gemm_datatypes"].items()),
        f"{engine['traffic_mb']:,.0f}",
        f"{engine['build_seconds']:.0f} s",
    )


def _shorten(reason: str, length: int = 170) -> str:
    text = reason if len(reason) <= length else f"{reason[:length].rstrip(' .…')}…"
    return f"`{text.replace('`', chr(39))}`"
