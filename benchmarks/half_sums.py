"""`python -m benchmarks.half_sums`: what FP16 sums cost, from attention's alone to every GEMM's.

No runtime on a CPU sums in FP16, so the sums are written out (`export.passes.half_sums`).
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch

from export.check_images import load_check_images
from export.deploy import DeployModel
from export.passes import deploy_passes
from export.passes.half_sums import HalfSumsPass
from export.reference import Reference
from export.score_reader import ScoreReader
from export.trace import trace_model
from export.verify import ParityReport, compare
from segvit.checkpoint import load_checkpoint
from segvit.config import VARIANTS, find_variant
from segvit.model import SegViT, build_model
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

_EPILOG = """\
example:
  python -m benchmarks.half_sums --model vit_t_landcover --num-images 8
"""
_FORMS = {
    "FP32 sums": None,
    "attention in FP16": HalfSumsPass(),
    "every GEMM in FP16": HalfSumsPass(all_gemms=True),
    "every GEMM in FP16, 4 terms at once": HalfSumsPass(all_gemms=True, chunk=4),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Compare a model's FP16 graph, summed in each form, with PyTorch in FP32."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.half_sums",
        description="Compare FP16 sums of several reaches with PyTorch in FP32.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), metavar="NAME",
                        default=SHIPPED_MODELS[0], help="a shipped model, or another with random "
                        "weights (default %(default)s)")  # fmt: skip
    parser.add_argument("--num-images", type=int, default=64, metavar="N", help="default 64")
    parser.add_argument("--forms", type=int, choices=range(1, len(_FORMS) + 1), default=3,
                        help=f"how many of: {', '.join(_FORMS)} (default %(default)s)")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    model, is_random = _load_model(arguments.model)
    side = model.config.image_size
    check = load_check_images(None, model.config, (side, side), arguments.num_images, 0)
    graph = trace_model(DeployModel(model, (side, side), "labels", 1), (side, side), 1)
    for graph_pass in deploy_passes("fp16"):
        graph_pass(graph)
    reference = Reference(model, (side, side))
    print(f"{model.config.name}, {'random weights, ' if is_random else ''}on {check.source}:")
    for name in list(_FORMS)[: arguments.forms]:
        written, form = graph.clone(), _FORMS[name]
        if form is not None:
            form(written)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(written, path, external_data="model.data")
            reader = ScoreReader(path, model.config.num_classes, (side, side))
        report = compare(reference, reader, check.images, check.truth, model.config.num_classes)
        reader.close()
        print(f"  {name:36}{_format(report, is_random)}", flush=True)
    return 0


def _load_model(name: str) -> tuple[SegViT, bool]:
    """Return the model, and whether its weights are random."""
    if name in SHIPPED_MODELS:
        return load_checkpoint(shipped_checkpoint(name)), False
    torch.manual_seed(0)
    return build_model(find_variant(name)), True


def _format(report: ParityReport, is_random: bool) -> str:
    scores = f"scores off by {report.score_rms:.2e} RMS"
    if is_random:
        return scores
    miou = "" if report.miou is None else f", mIoU {report.miou:.4f} ({report.miou_reference:.4f})"
    return f"{report.pixel_agreement:.5f} of pixels equal, {scores}{miou}"


if __name__ == "__main__":
    run_main(main)
