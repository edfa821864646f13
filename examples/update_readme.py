"""Put the figures and the picture of the last `make demo` into README.md.

    python examples/update_readme.py

The figures are kept in benchmarks/results/demo.json; a test holds README.md against that file.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "overview.png"

Result = dict[str, Any]


def main() -> None:
    """Collect the demo's figures, then rewrite the blocks of the README that show them."""
    artifact = ROOT / "artifacts" / "vit_t_landcover-256x256-fp16"
    segments = ROOT / "segments"
    manifest = json.loads((artifact / "manifest.json").read_text())
    result: Result = {
        name: manifest[name] for name in ("model", "precision", "parity", "targets", "versions")
    }
    result |= json.loads((segments / "latency.json").read_text())
    RESULT.write_text(f"{json.dumps(result, indent=2)}\n")
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copyfile(segments / "overview.png", PICTURE)
    README.write_text(insert_figures(README.read_text(), result))
    print(f"wrote {README.name}, {RESULT.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


def insert_figures(text: str, result: Result) -> str:
    """Return the README with its marked blocks rendered from a result."""
    for name, lines in (
        ("parity", render_parity(result)),
        ("audit", render_audit(result)),
        ("latency", render_latency(result)),
    ):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        block = "\n".join([begin, *lines, end])
        text, count = pattern.subn(lambda _, block=block: block, text)
        if count != 1:
            raise ValueError(f"README.md: expected one block {begin} … {end}, found {count}")
    return text


def render_parity(result: Result) -> list[str]:
    """Return the parity table."""
    parity = result["parity"]
    rows = [
        ("pixels labelled as by PyTorch FP32", f"{parity['pixel_agreement']:.5f}", "≥ 0.999"),
        ("mIoU, PyTorch FP32", f"{parity['miou_reference']:.4f}", ""),
        ("mIoU, exported FP16", f"{parity['miou']:.4f}", "drop ≤ 0.001"),
        ("largest IoU drop of a class", f"{parity['max_class_iou_drop']:.4f}", ""),
        ("score error, relative RMS", f"{parity['details']['score_rms']:.1e}", ""),
        ("largest score error", f"{parity['max_score_error']:.1e}", ""),
    ]
    lines = [f"| {parity['details']['source']} | | gate |", "|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def render_audit(result: Result) -> list[str]:
    """Return the audit of the compiled engine, by part."""
    entry = next(target for target in result["targets"] if target["audit"])
    audit, capabilities = entry["audit"], ", ".join(entry["compute_capabilities"])
    gemms = ", ".join(f"{count} {name}" for name, count in audit["gemm_datatypes"].items())
    lines = [
        f"| {entry['target']} {entry['version']}, {capabilities} | kernels | MB moved |",
        "|---|---|---|",
    ]
    for name, part in audit["parts"].items():
        lines.append(f"| {name} | {part['kernels']} | {part['traffic_mb']:.1f} |")
    lines += [f"| **all** | **{audit['kernels']}** | **{audit['traffic_mb']:.1f}** |", ""]
    fused = f"{audit['fused_attentions']} of {audit['attentions']}"
    memory = f"{audit['activation_mb']:.1f} MB"
    return [*lines, f"Attentions fused: {fused}. GEMMs: {gemms}. Activations: {memory}."]


def render_latency(result: Result) -> list[str]:
    """Return the latency table of the interleaved run."""
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


if __name__ == "__main__":
    main()
