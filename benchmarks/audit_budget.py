"""`python -m benchmarks.audit_budget`: the audit of every variant in every precision, and budgets.

Each variant is traced once with random weights, cast or quantized with ranges of one (which decide
no kernel), compiled with TensorRT-RTX and audited, as `export.build` would.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from calibration.qdq_insertion import QdqInsertionPass, list_activations
from calibration.scheme import SCHEMES, find_scheme
from engines.audit import PRECISION_DATATYPES, Audit, AuditError, audit_kernels, check_audit
from engines.audit_budget import (
    BUDGETS_PATH,
    Budget,
    check_budget,
    describe_build,
    find_generation,
    read_budgets,
    write_budgets,
)
from engines.graph import read_graph
from engines.target import Target
from engines.trt_builder import BuildOptions, EngineBuildError, build_engine
from export.deploy import DeployModel
from export.manifest import Manifest, ModelInfo, TensorSpec
from export.passes import deploy_passes
from export.trace import trace_model
from segvit.config import VARIANTS, SegViTConfig, find_variant
from segvit.model import build_model

_OLDEST_FP8 = "SM89"
_EPILOG = """\
example:
  python -m benchmarks.audit_budget                     # compare with what is stored
  python -m benchmarks.audit_budget --update --models vit_t_landcover
"""


@dataclass(frozen=True)
class Row:
    """One audited build: its budget's name, what the audit says, and the seconds it took."""

    name: str
    audit: Audit
    verdict: str
    is_good: bool
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Build and audit; return 1 if an engine raises an alarm or exceeds its budget."""
    arguments = _parse_arguments(argv)
    budgets, good = read_budgets(arguments.budgets), True
    for model in arguments.models:
        for row in audit_variant(model, arguments, budgets):
            good &= row.is_good
            print(f"{row.name}: {row.audit.describe()}; {row.verdict}; {row.seconds:.0f} s",
                  flush=True)  # fmt: skip
            if arguments.update:
                budgets[row.name] = Budget(row.audit.kernels, _round(row.audit.traffic_mb))
                # After each build, so that an interrupted run goes on where it stopped.
                write_budgets(budgets, arguments.budgets)
    if arguments.update:
        print(f"wrote {arguments.budgets}: {len(budgets)} budgets; look at the difference in git")
    return 0 if good else 1


def audit_variant(
    model: str, arguments: argparse.Namespace, budgets: dict[str, Budget]
) -> Iterator[Row]:
    """Yield the audit of a variant in each precision, for each compute capability."""
    config = find_variant(model)
    traced: ir.Model | None = None
    for precision in arguments.precisions:
        for capability in _list_capabilities(precision, arguments.compute_capability):
            if arguments.missing and _is_stored(config, precision, capability, budgets):
                continue
            started = time.perf_counter()
            traced = traced or _trace(config)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                _write_graph(traced, config, precision, path)
                gc.collect()
                try:
                    row = _audit(path, precision, capability, budgets, arguments.update)
                except EngineBuildError as error:
                    print(f"{model} {precision} {capability}: not built: {error}", flush=True)
                    continue
            yield Row(*row, time.perf_counter() - started)


def _trace(config: SegViTConfig) -> ir.Model:
    torch.manual_seed(0)
    size = (config.image_size, config.image_size)
    return trace_model(DeployModel(build_model(config).eval(), size), size, 1)


def _write_graph(traced: ir.Model, config: SegViTConfig, precision: str, path: Path) -> None:
    """Write the graph that `export.build` would, its ranges aside."""
    graph = traced.clone()
    for graph_pass in deploy_passes("fp16" if precision in SCHEMES else precision):
        graph_pass(graph)
    if precision in SCHEMES:
        scheme = find_scheme(precision)
        limits = dict.fromkeys(list_activations(graph.graph, scheme), 1.0)
        QdqInsertionPass(scheme, limits)(graph)
    side = config.image_size
    manifest = Manifest(
        version="", model=ModelInfo(config.name, 0, "none (random weights)", True),
        precision=precision, input=TensorSpec("image", "uint8", (1, side, side, 3)),
        outputs=(TensorSpec("labels", "uint8", (1, side, side)),),
        classes=config.class_names, palette=config.palette,
    )  # fmt: skip
    graph.metadata_props.update(manifest.metadata())
    graph.metadata_props["config"] = config.to_json()
    ir.save(graph, path, external_data="model.onnx.data")


def _audit(
    path: Path, precision: str, capability: str, budgets: dict[str, Budget], update: bool
) -> tuple[str, Audit, str, bool]:
    """Return a build's name, its audit, the verdict, and whether all is well."""
    engine = build_engine(path, Target.TRT_RTX, (capability,), BuildOptions(), progress=False)
    graph = read_graph(path)
    audit = audit_kernels(engine.kernels, graph, engine.activation_bytes, engine.plan)
    name = describe_build(graph, Target.TRT_RTX, engine.version, (capability,))
    assert name is not None
    try:
        check_audit(audit, precision)
        verdict = "stored" if update else check_budget(audit, name, budgets)
    except AuditError as error:
        return name, audit, f"ALARM: {error}", False
    return name, audit, verdict, True


def _list_capabilities(precision: str, asked: Sequence[str]) -> list[str]:
    """Return the GPUs to compile for, in FP8 the oldest that has it for older ones."""
    if precision != "fp8":
        return list(asked)
    oldest = int(_OLDEST_FP8.removeprefix("SM"))
    newer = (n if int(n.removeprefix("SM")) >= oldest else _OLDEST_FP8 for n in asked)
    return list(dict.fromkeys(newer))


def _is_stored(
    config: SegViTConfig, precision: str, capability: str, budgets: dict[str, Budget]
) -> bool:
    """Return whether a default build of this precision for such GPUs is stored."""
    size = f"1x{config.image_size}x{config.image_size}"
    return any(
        name.startswith(f"{config.name}, {size}, labels, {precision}")
        and name.endswith(f", {find_generation([capability])}")
        for name in budgets
    )


def _round(traffic_mb: float | None) -> float | None:
    return None if traffic_mb is None else round(traffic_mb, 2)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.audit_budget",
        description="Build variants with random weights for TensorRT-RTX, audit them, and compare "
        "kernels and memory traffic with the stored budgets, or store them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[:9], metavar="NAME",
        help="default: the seven published and the two shipped variants")  # fmt: skip
    add("--precisions", nargs="+", choices=list(PRECISION_DATATYPES), metavar="P",
        default=list(PRECISION_DATATYPES), help="default %(default)s")  # fmt: skip
    add("--compute-capability", nargs="+", default=["SM86"], metavar="SM",
        help="one a generation of GPUs; FP8 takes SM89 in place of older ones (default SM86)",
        )  # fmt: skip
    add("--update", action="store_true", help="store what is found, for review in git")
    add("--missing", action="store_true", help="build only what has no stored budget")
    add("--budgets", type=Path, default=BUDGETS_PATH, metavar="FILE", help="default %(default)s")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
