"""`python -m benchmarks.quantisers`: our INT8 and FP8 beside ONNX Runtime's and ModelOpt's."""

from __future__ import annotations

from segvit_deploy import describe_error, run_main

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.other_quantisers import (
    ModelOpt,
    find_modelopt,
    quantise_with_modelopt,
    quantise_with_ort,
)
from benchmarks.result_files import write_result
from calibration.images import CalibrationImages, load_calibration_images
from calibration.qdq_insertion import list_products
from calibration.quantization import Calibration, calibrate, quantise_model
from calibration.scheme import SCHEMES
from engines.audit import audit_engine
from engines.target import Target, installed_version
from engines.trt_builder import BuildOptions, build_engine
from export.check_images import CheckImages, load_check_images
from export.deploy import DeployModel
from export.passes import deploy_passes
from export.score_reader import ScoreReader
from export.trace import trace_model
from export.verify import Prediction, compare
from segvit.checkpoint import load_checkpoint
from segvit.config import SegViTConfig
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

_REASON_LENGTH = 300
_EPILOG = """\
example:
  python -m benchmarks.quantisers --model vit_t_landcover --num-images 16
"""


@dataclass(frozen=True)
class Recipe:
    """One row: who quantises which float graph to what.

    `nodes`: `ours` are the products our scheme takes, `its own` what the quantiser chooses itself.
    """

    tool: str
    precision: str
    source: str
    nodes: str = "ours"

    @property
    def name(self) -> str:
        """The row's name."""
        if self.tool == "none":
            return f"not quantised, {self.precision.upper()}"
        return f"{self.tool}, {self.precision.upper()}"


# The other quantisers get what they ask for (FP32 in the first place) and, where it makes a
# difference, the FP16 graph that ours works on.
RECIPES = (
    Recipe("none", "fp16", "fp16"),
    Recipe("ours", "int8", "fp16"),
    Recipe("ONNX Runtime", "int8", "fp32", "its own"),
    Recipe("ONNX Runtime", "int8", "fp16", "its own"),
    Recipe("ONNX Runtime", "int8", "fp16"),
    Recipe("ModelOpt", "int8", "fp32", "its own"),
    Recipe("ModelOpt", "int8", "fp16", "its own"),
    Recipe("ModelOpt", "int8", "fp32"),
    Recipe("ours", "fp8", "fp16"),
    Recipe("ModelOpt", "fp8", "fp32", "its own"),
    Recipe("ModelOpt", "fp8", "fp32"),
)
SKIPPED = "skipped: no --modelopt-python given"


@dataclass
class Row:
    """What came of a recipe; a stage that failed is in `failures` with the reason."""

    model: str
    name: str
    tool: str
    precision: str
    source: str
    nodes: str
    quantise_seconds: float | None = None
    accuracy: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    def attempt(self, stage: str, work: Callable[[], None]) -> bool:
        """Return whether `work` succeeds; why it does not is kept."""
        try:
            work()
        except Exception as error:  # whatever another tool raises is its result, not our failure
            self.failures[stage] = _shorten(error)
            return False
        return True


class Bench:
    """One model's float graphs, its images, and what every row is compared with."""

    def __init__(self, config: SegViTConfig, folder: Path, graph: ir.Model, capability: str):
        self.config, self.folder, self.capability = config, folder, capability
        self.graphs = {}
        for precision in ("fp32", "fp16"):
            self.graphs[precision] = graph.clone()
            for graph_pass in deploy_passes(precision):
                graph_pass(self.graphs[precision])
            self.graphs[precision].metadata_props["precision"] = json.dumps(precision)
            ir.save(self.graphs[precision], folder / f"{precision}.onnx")
        self.calibration: CalibrationImages | None = None
        self.check: CheckImages | None = None
        self._reference = ScoreReader(folder / "fp32.onnx", config.num_classes)
        self._known: dict[bytes, Prediction] = {}

    def load_images(self, num_calibration: int, num_check: int) -> None:
        """Read the images to calibrate and those to compare on."""
        size = (self.config.image_size, self.config.image_size)
        self.calibration = load_calibration_images(None, size, num_calibration, seed=0)
        self.check = load_check_images(None, self.config, size, num_check, seed=0)
        np.savez(self.folder / "images.npz", image=self.calibration.images)

    def measure(self, recipe: Recipe, modelopt: ModelOpt | None) -> Row:
        """Return a recipe's row: quantised, compared with the float graph, compiled."""
        row = Row(self.config.name, recipe.name, **asdict(recipe))
        if recipe.tool == "ModelOpt" and modelopt is None:
            row.failures["quantise"] = SKIPPED
            return row
        path = self.folder / "quantised.onnx"
        path.unlink(missing_ok=True)

        started = time.perf_counter()
        if row.attempt("quantise", lambda: self._quantise(recipe, modelopt, path)):
            row.quantise_seconds = round(time.perf_counter() - started, 1)
            row.attempt("accuracy", lambda: self._compare(row, path))
            row.attempt("engine", lambda: self._compile(row, path))
        return row

    def _quantise(self, recipe: Recipe, modelopt: ModelOpt | None, path: Path) -> None:
        """Write the recipe's file."""
        assert self.calibration is not None
        source = self.folder / f"{recipe.source}.onnx"
        if recipe.tool == "none":
            path.write_bytes(source.read_bytes())
            return
        scheme, graph = SCHEMES[recipe.precision], self.graphs[recipe.source]
        names = [str(node.name) for node, _ in list_products(graph.graph, scheme)]
        nodes = names if recipe.nodes == "ours" else None
        if recipe.tool == "ours":
            quantised = graph.clone()
            calibration = Calibration(self.calibration, progress=False)
            quantise_model(quantised, scheme, calibrate(quantised, scheme, calibration))
            ir.save(quantised, path)
        elif recipe.tool == "ONNX Runtime":
            quantise_with_ort(source, self.calibration.images, path, nodes)
        else:
            assert modelopt is not None
            images = self.folder / "images.npz"
            quantise_with_modelopt(modelopt, source, images, path, recipe.precision, nodes)

    def _compare(self, row: Row, path: Path) -> None:
        assert self.check is not None
        classes = self.config.num_classes
        reader = ScoreReader(path, classes)
        report = compare(
            self._refer, reader, self.check.images, self.check.truth, classes, 1, False
        )
        row.accuracy = asdict(report)

    def _refer(self, images: NDArray[np.uint8]) -> Prediction:
        """Return the float graph's prediction, which all rows are compared with, computed once."""
        key = images.tobytes()
        if key not in self._known:
            self._known[key] = self._reference(images)
        return self._known[key]

    def _compile(self, row: Row, path: Path) -> None:
        engine = build_engine(path, Target.TRT_RTX, (self.capability,), BuildOptions(), False)
        audit = audit_engine(engine, path)
        row.engine = asdict(audit.summary()) | {
            "asked_datatypes": audit.asked_datatypes,
            "wrong_precision": len(audit.wrong_precision),
            "build_seconds": round(engine.build_seconds, 1),
            "engine_mb": round(len(engine.plan) / 1e6, 2),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every recipe on every model and print the table."""
    arguments = _parse_arguments(argv)
    modelopt = find_modelopt(arguments.modelopt_python) if arguments.modelopt_python else None
    checkpoints = (
        [arguments.checkpoint] if arguments.checkpoint else map(shipped_checkpoint, arguments.model)
    )
    rows: list[Row] = []
    sources: list[str] = []
    for checkpoint in checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            bench = _prepare(checkpoint, Path(folder), arguments)
            assert bench.check is not None
            assert bench.calibration is not None
            sources = [bench.calibration.source, bench.check.source]
            label = bench.config.name
            bar = tqdm(RECIPES, label, unit="row", leave=False, disable=arguments.json or None)
            rows += [bench.measure(recipe, modelopt) for recipe in bar]
    report = {
        "machine": describe_machine(),
        "versions": _versions(modelopt),
        "command": _command(arguments),
        "compute_capability": arguments.compute_capability,
        "calibration": sources[0],
        "images": sources[1],
        "rows": [asdict(row) for row in rows],
    }
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(rows))
    return 0


def _prepare(checkpoint: Path, folder: Path, arguments: argparse.Namespace) -> Bench:
    model = load_checkpoint(checkpoint)
    size = (model.config.image_size, model.config.image_size)
    graph = trace_model(DeployModel(model, size), size, 1)
    bench = Bench(model.config, folder, graph, arguments.compute_capability)
    bench.load_images(arguments.num_calibration_images, arguments.num_images)
    return bench


def _versions(modelopt: ModelOpt | None) -> dict[str, Any]:
    try:
        compiler: str | None = installed_version(Target.TRT_RTX)
    except (ImportError, ValueError, RuntimeError):
        compiler = None
    return {"trt-rtx": compiler, "modelopt": modelopt.versions if modelopt else None}


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without the paths of this machine."""
    named = [] if arguments.checkpoint else ["--model", *arguments.model]
    other = ["--modelopt-python", "PYTHON"] if arguments.modelopt_python else []
    counts = f"{arguments.num_images} --num-calibration-images {arguments.num_calibration_images}"
    words = ["python -m benchmarks.quantisers", *named, "--num-images", counts, *other]
    return " ".join(words)


def _shorten(error: Exception) -> str:
    """Return an error as a line without the folders of one run."""
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", describe_error(error))
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}…"


def _format(rows: Sequence[Row]) -> str:
    lines = [
        f"{'':24}{'from':>6}{'nodes':>9}{'mIoU':>8}{'labels':>8}{'RMS':>9}{'kernels':>9}"
        f"{'fused':>7}{'MB':>6}{'s':>6}  products"
    ]
    for row in rows:
        accuracy, engine = row.accuracy, row.engine
        line = f"{row.name:24}{row.source:>6}{row.nodes if row.tool != 'none' else '':>9}"
        if accuracy:
            miou = "" if accuracy["miou"] is None else f"{accuracy['miou']:.4f}"
            line += f"{miou:>8}{accuracy['pixel_agreement']:8.4f}{accuracy['score_rms']:9.1e}"
        else:
            line += f"{'':25}"
        if engine:
            fused = f"{engine['fused_attentions']}/{engine['attentions']}"
            products = " + ".join(f"{n} {name}" for name, n in engine["gemm_datatypes"].items())
            moved = "open" if engine["traffic_mb"] is None else f"{engine['traffic_mb']:.0f}"
            line += f"{engine['kernels']:9}{fused:>7}{moved:>6}{engine['build_seconds']:6.0f}"
            line += f"  {products}"
        lines.append(line.rstrip())
        lines += [f"  {stage}: {reason}" for stage, reason in row.failures.items()]
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantisers",
        description="Quantise one float model on the same images with this project, ONNX Runtime "
        "and NVIDIA ModelOpt, and compare accuracy and what TensorRT-RTX compiles each to.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE")
    source.add_argument("--model", choices=SHIPPED_MODELS, nargs="+", metavar="NAME",
                        default=[SHIPPED_MODELS[0]],
                        help=f"shipped checkpoints (default {SHIPPED_MODELS[0]})")  # fmt: skip
    add("--num-images", type=int, default=64, metavar="N", help="test tiles (default %(default)s)")
    add("--num-calibration-images", type=int, default=256, metavar="N",
        help="training tiles to calibrate on (default %(default)s)")  # fmt: skip
    add("--modelopt-python", type=Path, metavar="FILE",
        help="a Python that has ModelOpt (default: its rows are skipped)")  # fmt: skip
    add("--compute-capability", default="SM89", metavar="SM", help="default %(default)s")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if min(arguments.num_images, arguments.num_calibration_images) < 1:
        parser.error("--num-images and --num-calibration-images must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
