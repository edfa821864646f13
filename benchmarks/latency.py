"""`python -m benchmarks.latency`: artifacts against PyTorch eager, in one interleaved run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.timing import LatencySummary, time_interleaved
from engines.runtime import open_runtime
from export.manifest import Manifest, verify_file
from segvit.atomic import write_bytes
from segvit.cli import run_main

EAGER = "PyTorch eager"
_EPILOG = """\
example:
  python -m benchmarks.latency --artifact artifacts/vit_t_landcover-256x256-fp16
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Time artifacts and, beside them, the reference."""
    arguments = _parse_arguments(argv)
    with ExitStack() as stack:
        candidates, labels, images = _open_candidates(arguments, stack)
        random = Manifest.read(arguments.artifact[0]).model.random_weights
        timed = time_interleaved(
            candidates, arguments.rounds, arguments.warm_up, progress=not arguments.json
        )
        # Random weights are drawn anew: they time alike and label differently.
        compared = {name: call for name, call in candidates.items() if name != EAGER or not random}
        agreement = {
            name: float((np.asarray(call()) == labels).mean()) for name, call in compared.items()
        }
    report = {
        "machine": describe_machine(),
        "threads": arguments.threads,
        "batch": len(images),
        "rounds": arguments.rounds,
        "order": "interleaved, one call of each in turn; transfers included, inputs in memory",
        "latency": {name: asdict(summary) for name, summary in timed.items()},
        "ratio_to_eager": _ratios(timed),
        "labels_equal_to_golden": agreement,
    }
    if arguments.out:
        write_bytes(arguments.out, f"{json.dumps(report, indent=2)}\n".encode())
    print(json.dumps(report, indent=2) if arguments.json else _format(report, timed))
    return 0


def _open_candidates(
    arguments: argparse.Namespace, stack: ExitStack
) -> tuple[dict[str, Callable[[], object]], NDArray[np.integer], NDArray[np.uint8]]:
    """Return what to call by name, the labels expected and the images both take."""
    candidates: dict[str, Callable[[], object]] = {}
    manifests = [Manifest.read(folder) for folder in arguments.artifact]
    first = manifests[0]
    for folder, manifest in zip(arguments.artifact, manifests, strict=True):
        if (manifest.model, manifest.input) != (first.model, first.input):
            raise ValueError(
                f"'{folder}' is another model or size than '{arguments.artifact[0]}'; give "
                "artifacts of one model"
            )
        if manifest.outputs[0].name != "labels":
            raise ValueError(f"'{folder}' gives scores; build it with --output labels to compare")
    folder = arguments.artifact[0]
    with np.load(verify_file(folder, "golden.npz", first)) as golden:
        count = first.batch[1]
        images, labels = golden["images"][:count], golden["labels"][:count]
    for folder, manifest in zip(arguments.artifact, manifests, strict=True):
        runtime = stack.enter_context(
            open_runtime(folder, arguments.target, threads=arguments.threads)
        )
        name = f"{runtime.target} {manifest.precision}"
        name = name if name not in candidates else f"{name} ({folder.name})"
        candidates[name] = partial(runtime.infer, images)
    if not arguments.no_eager:
        candidates = {EAGER: _open_eager(arguments, first, folder, images), **candidates}
    return candidates, labels, images


def _open_eager(
    arguments: argparse.Namespace, manifest: Manifest, folder: Path, images: NDArray[np.uint8]
) -> Callable[[], object]:
    """Return the reference on these images; its weights must be those the artifact has."""
    import torch  # the reference side alone needs it

    from segvit.checkpoint import load_checkpoint
    from segvit.config import find_variant
    from segvit.model import build_model
    from segvit.prediction import predict_scores
    from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

    torch.set_num_threads(arguments.threads)
    if manifest.model.random_weights:
        model = build_model(find_variant(manifest.model.name))
    else:
        path = arguments.checkpoint
        if path is None and manifest.model.name in SHIPPED_MODELS:
            path = shipped_checkpoint(manifest.model.name)
        if path is None:
            raise ValueError(
                f"'{folder}' was built from a checkpoint: give it with --checkpoint, or leave "
                "PyTorch out with --no-eager"
            )
        model = load_checkpoint(path)
        if model.provenance and model.provenance.sha256 != manifest.model.checkpoint_sha256:
            raise ValueError(
                f"checkpoint '{path}' is not the one '{folder}' was built from; give that one "
                "with --checkpoint"
            )
    return lambda: predict_scores(model, images).argmax(axis=1)


def _ratios(timed: dict[str, LatencySummary]) -> dict[str, float]:
    if EAGER not in timed:
        return {}
    return {name: summary.p50_ms / timed[EAGER].p50_ms for name, summary in timed.items()}


def _format(report: dict[str, Any], timed: dict[str, LatencySummary]) -> str:
    lines = [f"{'':24}{'p50 ms':>9}{'p95 ms':>9}{'ratio':>8}{'labels':>9}"]
    for name, summary in timed.items():
        ratio = report["ratio_to_eager"].get(name)
        shown = f"{ratio:8.2f}" if ratio is not None else f"{'':8}"
        agreement = report["labels_equal_to_golden"].get(name)
        equal = f"{agreement:9.5f}" if agreement is not None else f"{'-':>9}"
        lines.append(f"{name:24}{summary.p50_ms:9.2f}{summary.p95_ms:9.2f}{shown}{equal}")
    machine = report["machine"]
    lines.append(
        f"{machine['processor']}, {report['threads']} threads, batch {report['batch']}, "
        f"{report['rounds']} interleaved rounds, load {machine['load_1_min']}"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Time artifacts of one model and PyTorch eager, interleaved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifact", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--target", default="auto", help="trt, trt-rtx, ort, openvino or auto")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="PyTorch's weights")
    parser.add_argument("--no-eager", action="store_true", help="leave PyTorch out")
    parser.add_argument("--rounds", type=int, default=50, help="calls of each (default 50)")
    parser.add_argument("--warm-up", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
