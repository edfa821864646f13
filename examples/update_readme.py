"""Put the picture of the last `make demo` and all measured figures into README.md and docs.

    python -m examples.update_readme

The figures are kept in benchmarks/results; a test holds the pages against those files.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from calibration.budget import FRONTIER_NAME, Frontier, Point
from examples.embedding_figures import render_overhead, render_slide_graph
from examples.latency_figures import (
    render_cpu_profile,
    render_peers,
    render_shipped_latency,
    render_sweep,
    render_variants,
)
from examples.quantisation_figures import (
    render_budget,
    render_frontier,
    render_quantised,
    render_quantised_cpu,
    render_quantisers,
)
from examples.results import RESULTS, ROOT, Result, read_result
from export.gates import GATES
from segvit.shipped import SHIPPED_MODELS

PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "formulation.md",
    ROOT / "docs" / "quantization.md",
    ROOT / "docs" / "results.md",
    ROOT / "segvit" / "weights" / "README.md",
)
# What `python -m export.build --int8 --max-miou-drop 0.3 --num-images 171 --out artifacts/budget`
# leaves (171 are all test tiles), and budget-*, the same of other models and precisions.
BUDGET = ROOT / "artifacts" / "budget"
PICTURE = ROOT / "docs" / "images" / "overview.png"


def main() -> None:
    """Collect the demo's figures, then rewrite the blocks that show measured figures."""
    parser = argparse.ArgumentParser(prog="python -m examples.update_readme")
    parser.add_argument("--pages", action="store_true", help="collect nothing, rewrite the pages")
    if not parser.parse_args().pages:
        collect()
    for page in PAGES:
        page.write_text(insert_figures(page.read_text()))
        print(f"wrote {page.relative_to(ROOT)}")


def collect() -> None:
    """Keep the figures and the picture of the last `make demo` and of searched builds."""
    artifact = ROOT / "artifacts" / "vit_t_landcover-256x256-fp16"
    segments = ROOT / "segments"
    manifest = json.loads((artifact / "manifest.json").read_text())
    result: Result = {
        name: manifest[name] for name in ("model", "precision", "parity", "targets", "versions")
    }
    result |= json.loads((segments / "latency.json").read_text())
    (RESULTS / "demo.json").write_text(f"{json.dumps(result, indent=2)}\n")
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copyfile(segments / "overview.png", PICTURE)
    if BUDGET.is_dir():
        collect_frontier(BUDGET)
        others = sorted(BUDGET.parent.glob(f"{BUDGET.name}-*"))
        collect_budgets([BUDGET, *(path for path in others if path.suffix != ".search")])


def collect_frontier(artifact: Path) -> None:
    """Keep the frontier of a build with --max-miou-drop, and its plot."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    frontier = json.loads((artifact / FRONTIER_NAME).read_text())
    budget, built = _find_built(artifact, manifest)
    points = sorted(frontier["points"], key=lambda p: -p["quantised"])
    result = {
        "model": manifest["model"]["name"],
        "command": manifest["command"],
        "versions": manifest["versions"],
        "warnings": manifest["warnings"],
        "parity": manifest["parity"],
        "budget_points": budget,
        "setup": frontier["setup"],
        "float_speed": frontier["float_speed"],
        "points": [point | {"is_built": tuple(point["kept"]) == built.kept} for point in points],
    }
    (RESULTS / "frontier.json").write_text(f"{json.dumps(result, indent=2)}\n")
    shutil.copyfile(artifact / "frontier.png", PICTURE.with_name("frontier.png"))


def collect_budgets(artifacts: Sequence[Path]) -> None:
    """Keep what searched builds hold on the images that they were verified on."""
    rows = []
    for artifact in artifacts:
        manifest = json.loads((artifact / "manifest.json").read_text())
        frontier = json.loads((artifact / FRONTIER_NAME).read_text())
        _, built = _find_built(artifact, manifest)
        engine = next(entry for entry in manifest["targets"] if entry["audit"])
        rows.append({
            "model": manifest["model"]["name"],
            "precision": manifest["precision"],
            "command": manifest["command"],
            "products": len(frontier["layers"]),
            "quantised": built.quantised,
            "parity": manifest["parity"],
            "audit": engine["audit"],
            "recommends_float": any("is recommended" in text for text in manifest["warnings"]),
        })  # fmt: skip
    (RESULTS / "budget.json").write_text(f"{json.dumps({'rows': rows}, indent=2)}\n")


def _find_built(artifact: Path, manifest: Result) -> tuple[float, Point]:
    """Return the budget of a searched build, in points, and what it chose."""
    budget = float(manifest["command"].split("--max-miou-drop=")[1].split()[0])
    point = Frontier.load(artifact / FRONTIER_NAME).choose(budget)
    assert point is not None, "or there would be no artifact"
    return budget, point


def insert_figures(text: str) -> str:
    """Return a page with its marked blocks rendered from the kept results."""
    for name, render in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text:
            before, rest = text.split(begin, 1)
            after = rest.split(end, 1)[1]
            text = before + "\n".join([begin, *render(), end]) + after
    return text


def render_parity() -> list[str]:
    """Return the parity table: the graph as written, and with attention summed in FP16."""
    result = read_result("demo")
    parity, gate = result["parity"], GATES[result["precision"]]
    worst = parity["worst_case"]
    drop = parity["miou_reference"] - parity["miou"]
    low, high = parity["pixel_agreement_interval"]
    rows = [
        (
            "pixels labeled as by PyTorch FP32",
            f"{parity['pixel_agreement']:.5f} ({low:.5f} to {high:.5f})",
            f"{worst['pixel_agreement']:.5f}",
            f"≥ {gate.pixel_agreement}",
        ),
        (
            "mIoU, PyTorch FP32",
            f"{parity['miou_reference']:.4f}",
            f"{worst['miou_reference']:.4f}",
            "",
        ),
        (
            "drop of mIoU",
            f"{drop:z.4f} ({parity['miou_drop_interval'][0]:z.4f} to "
            f"{parity['miou_drop_interval'][1]:z.4f})",
            f"{worst['miou_reference'] - worst['miou']:z.4f}",
            f"≤ {gate.miou_drop}",
        ),
        (
            f"worst class ({parity['worst_class']}): pixels kept",
            f"{parity['worst_class_recall']:.4f}",
            "",
            f"≥ {gate.class_recall}",
        ),
        (
            "largest drop of a class's IoU",
            f"{parity['max_class_iou_drop']:.4f}",
            f"{worst['max_class_iou_drop']:.4f}",
            f"≤ {gate.class_iou_drop}",
        ),
        (
            "score error, relative RMS",
            f"{parity['details']['score_rms']:.1e}",
            f"{worst['score_rms']:.1e}",
            f"≤ {gate.score_rms:.0e}",
        ),
    ]
    lines = [
        f"| {parity['details']['source']}, {parity['independent_pixels']:,} independent pixels "
        f"| as written | attention summed in FP16, {worst['images']} tiles | gate |",
        "|---|---|---|---|",
    ]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def render_audit() -> list[str]:
    """Return the audit of the compiled engine, by part."""
    entry = next(target for target in read_result("demo")["targets"] if target["audit"])
    audit, capabilities = entry["audit"], ", ".join(entry["compute_capabilities"])
    gemms = ", ".join(f"{count} {name}" for name, count in audit["gemm_datatypes"].items())
    lines = [
        f"| {entry['target']} {entry['version']}, {capabilities} | kernels | memory traffic (MB) |",
        "|---|---|---|",
    ]
    for name, part in audit["parts"].items():
        lines.append(f"| {name} | {part['kernels']} | {part['traffic_mb']:.1f} |")
    lines += [f"| **all** | **{audit['kernels']}** | **{audit['traffic_mb']:.1f}** |", ""]
    fused = f"{audit['fused_attentions']} of {audit['attentions']}"
    memory = f"{audit['activation_mb']:.1f} MB"
    sums = f"{audit['float_sums']} of {audit['fused_attentions']}"
    return [
        *lines,
        f"Attentions fused: {fused}; summed in FP32, as the plan says: {sums}. GEMMs: {gemms}. "
        f"Activations: {memory}.",
    ]


def render_latency() -> list[str]:
    """Return the latency table of the interleaved run."""
    result = read_result("demo")
    lines = ["| | p50 | of eager |", "|---|---|---|"]
    for name, figures in result["latency"].items():
        ratio = result["ratio_to_eager"][name]
        lines.append(f"| {name} | {figures['p50_ms']:.1f} ms | {ratio:.2f} |")
    machine = result["machine"]
    versions = f"torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}"
    return [
        *lines,
        "",
        f"{machine['processor']}, {result['threads']} threads, batch {result['batch']}, "
        f"{result['rounds']} interleaved rounds; {versions}.",
    ]


def render_formulation() -> list[str]:
    """Return what each measured model compiles to."""
    lines = [
        "| | kernels | attentions fused | memory traffic (MB) | activations |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("formulation_*.json")):
        result = json.loads(path.read_text())
        for name, audit in result["forms"].items():
            fused = f"{audit['fused_attentions']} of {audit['attentions']}"
            figures = (f"{audit['traffic_mb']:,.0f}", f"{audit['activation_mb']:.0f} MB")
            row = (f"`{result['model']}`, {name}", str(audit["kernels"]), fused, *figures)
            lines.append(f"| {' | '.join(row)} |")
    return lines


def render_builds() -> list[str]:
    """Return what whole builds took and reached, and the same by part of the network."""
    result = read_result("builds")
    lines = [
        "| build | wall | peak memory | engine | kernels | attentions fused | memory traffic (MB) "
        "| activations | score error, relative RMS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for build in result["builds"]:
        figures = (
            f"{build['seconds']:.0f} s",
            f"{build['peak_gib']:.1f} GiB",
            f"{build['engine_mb']:,.0f} MB",
            str(build["kernels"]),
            f"{build['fused_attentions']} of {build['attentions']}",
            f"{build['traffic_mb']:,.0f}",
            f"{build['activation_mb'] * 1e6 / 2**20:.1f} MiB",
            f"{build['score_rms']:.1e}",
        )
        lines.append(f"| {_name_build(build)} | {' | '.join(figures)} |")
    parts = list(dict.fromkeys(name for build in result["builds"] for name in build["parts"]))
    lines += [
        "",
        f"| kernels / memory traffic (MB) | {' | '.join(parts)} |",
        "|---" * (len(parts) + 1) + "|",
    ]
    for build in result["builds"]:
        cells = [
            f"{build['parts'][name][0]} / {build['parts'][name][1]:,.1f}"
            if name in build["parts"] else ""
            for name in parts
        ]  # fmt: skip
        lines.append(f"| {_name_build(build)} | {' | '.join(cells)} |")
    machine = result["machine"]
    return [*lines, "", f"{machine['processor']}, {machine['cores']} cores, no GPU."]


def _name_build(build: Result) -> str:
    strips = build["options"][-1].removeprefix("--tail-strips=")
    return f"`{build['model']}`" + ("" if strips == "1" else f", {strips} tail strips")


def render_weights() -> list[str]:
    """Return the shipped checkpoints' results beside the colour floor."""
    reports = [read_result(f"evaluate_{name}") for name in SHIPPED_MODELS]
    names = " | ".join(f"`{name}`" for name in SHIPPED_MODELS)
    lines = [f"| IoU on test | {names} | colour alone |", "|---|---|---|---|"]
    for label in reports[0]["iou"]:
        found = [f"{report['iou'][label]:.3f}" for report in reports]
        floor = f"{reports[0]['colour_floor_iou'][label]:.3f}"
        lines.append(f"| {' | '.join([label, *found, floor])} |")
    for name, key in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy")):
        found = [f"**{report[key]:.4f}**" for report in reports]
        lines.append(
            f"| {' | '.join([name, *found, format(reports[0][f'colour_floor_{key}'], '.4f')])} |"
        )
    return lines


def render_precision() -> list[str]:
    """Return what keeping parts of the graph in FP32 would gain."""
    result = read_result("precision_vit_t_landcover")
    lines = [
        f"| kept in FP32, {result['images']} | labels as in FP32 | score error, relative RMS |"
    ]
    lines.append("|---|---|---|")
    for name, report in result["kept_in_fp32"].items():
        figures = f"{report['pixel_agreement']:.5f} | {report['score_rms']:.1e}"
        lines.append(f"| {name} | {figures} |")
    return lines


def render_slide() -> list[str]:
    """Return the sliding-window figures of PyTorch and of an artifact, side by side."""
    reports = {
        "PyTorch FP32": read_result("slide_pytorch"),
        "ONNX Runtime FP16": read_result("slide_ort_fp16"),
    }
    lines = ["| | mIoU | pixel accuracy | seconds |", "|---|---|---|---|"]
    for name, report in reports.items():
        figures = f"{report['miou']:.5f} | {report['pixel_accuracy']:.5f} | {report['seconds']}"
        lines.append(f"| {name} | {figures} |")
    first = reports["PyTorch FP32"]
    return [*lines, "", f"{first['images']} images of 512 px, windows of {first['crop'][0]} every "
            f"{first['stride'][0]}; `vit_t_landcover`, test split."]  # fmt: skip


def render_data() -> list[str]:
    """Return what reading and evaluating cost beside the model."""
    pipeline, evaluation = read_result("input_pipeline"), read_result("evaluation")
    lines = [f"| {pipeline['photos']} | images/s | training batches over it |", "|---|---|---|"]
    for name, rate in pipeline["images_per_second"].items():
        ratio = pipeline["ratios"].get(name)
        lines.append(f"| {name} | {rate:.0f} | {'' if ratio is None else format(ratio, '.2f')} |")
    overhead, memory = evaluation["overhead"], evaluation["memory"]
    return [
        *lines,
        "",
        f"Evaluating `{evaluation['model']}` on a CPU, {overhead['overhead_share']:.1%} of the "
        f"time is spent outside the model. Sliding over one image of {memory['size']} with "
        f"{memory['classes']} classes takes {memory['sliding_gb']:.2f} GB at most, the model "
        f"({memory['loaded_gb']:.2f} GB while loading) included.",
    ]


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "parity": render_parity,
    "audit": render_audit,
    "latency": render_latency,
    "formulation": render_formulation,
    "weights": render_weights,
    "precision": render_precision,
    "builds": render_builds,
    "slide": render_slide,
    "data": render_data,
    "quantised": render_quantised,
    "quantised_cpu": render_quantised_cpu,
    "frontier": render_frontier,
    "budget": render_budget,
    "quantisers": render_quantisers,
    "peers": render_peers,
    "shipped_latency": render_shipped_latency,
    "variants": render_variants,
    "cpu_profile": render_cpu_profile,
    "sweep": partial(render_sweep, "sweep"),
    "sweep_sizes": partial(render_sweep, "sweep_sizes"),
    "overhead": render_overhead,
    "slide_graph": render_slide_graph,
}


if __name__ == "__main__":
    main()
