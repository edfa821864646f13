"""`python -m benchmarks.formulation`: what a plain export compiles to, beside ours."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from benchmarks.machine import describe_machine
from benchmarks.plain_model import PlainModel
from benchmarks.result_files import write_result
from engines.audit import Audit, audit_engine
from engines.target import Target
from engines.trt_builder import BuildOptions, build_engine
from export.deploy import DeployModel
from export.passes import deploy_passes
from export.trace import trace_model
from segvit.config import VARIANTS, find_variant
from segvit.model import build_model

_EPILOG = """\
example:
  python -m benchmarks.formulation --model vit_t_landcover --compute-capability SM89
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile every form with random weights and print what the compiler made of it."""
    arguments = _parse_arguments(argv)
    config = find_variant(arguments.model)
    size = (config.image_size, config.image_size)
    torch.manual_seed(0)
    model = build_model(config)
    forms: dict[str, nn.Module] = {"plain export": PlainModel(model)}
    for strips in arguments.tail_strips:
        name = "deploy graph" if strips == 1 else f"deploy graph, {strips} tail strips"
        forms[name] = DeployModel(model, size, "labels", strips)
    audits = {}
    for name, form in forms.items():
        graph = trace_model(form, size, 1)
        for graph_pass in deploy_passes(arguments.precision):
            graph_pass(graph)
        audits[name] = _audit(graph, arguments.compute_capability, not arguments.json)
    report = {
        "machine": describe_machine(),
        "model": config.name,
        "precision": arguments.precision,
        "compute_capability": arguments.compute_capability,
        "weights": "random, seed 0",
        "forms": {name: asdict(audit.summary()) for name, audit in audits.items()},
    }
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(audits))
    return 0


def _audit(graph: ir.Model, capability: str, progress: bool) -> Audit:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(graph, path, external_data="model.onnx.data")
        engine = build_engine(path, Target.TRT_RTX, (capability,), BuildOptions(), progress)
        return audit_engine(engine, path)


def _format(audits: dict[str, Audit]) -> str:
    lines = [f"{'':32}{'kernels':>8}{'fused':>8}{'MB moved':>10}{'MB act.':>10}"]
    for name, audit in audits.items():
        fused = f"{audit.fused_attentions}/{audit.attentions}"
        moved = "open" if audit.traffic_mb is None else f"{audit.traffic_mb:.0f}"
        memory = "open" if audit.activation_mb is None else f"{audit.activation_mb:.1f}"
        lines.append(f"{name:32}{audit.kernels:8}{fused:>8}{moved:>10}{memory:>10}")
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.formulation",
        description="Compile a plain export and the deploy graph with TensorRT-RTX, and compare "
        "kernels, fused attentions, bytes moved and activation memory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), default="vit_b_ade20k", metavar="NAME")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--compute-capability", default="SM89", metavar="SM")
    parser.add_argument("--tail-strips", type=int, nargs="+", default=[1, 4], metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
