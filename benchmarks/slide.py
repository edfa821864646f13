"""`python -m benchmarks.slide`: windows in the graph against a Python loop over windows.

The loop is `segvit.inference.score_slide` over an artifact of the same model that takes one window
and gives scores; both run on the same target, in turn, and each once in a process of its own for
its peak memory.
"""

from __future__ import annotations

from segvit_deploy import run_main

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
from benchmarks.memory import measure_peak_mib
from benchmarks.result_files import write_result
from benchmarks.timing import time_interleaved
from engines.runtime import infer_all, open_runtime
from engines.target import Target
from export.manifest import Manifest, verify_file
from segvit.inference import score_slide

GRAPH, LOOP = "slide graph", "Python loop"
_EPILOG = """\
example:
  python -m export.build --fp16 --mode slide --image-size 512x1024 --out artifacts/slide
  python -m export.build --fp16 --output scores --out artifacts/scores
  python -m benchmarks.slide --artifact artifacts/slide --scores artifacts/scores
"""
Labeller = Callable[[], NDArray[np.integer[Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Time both and compare their labels."""
    arguments = _parse_arguments(argv)
    _check_artifacts(arguments.artifact, arguments.scores)
    with ExitStack() as stack:
        candidates = {name: _open(name, arguments, stack) for name in (GRAPH, LOOP)}
        timed = time_interleaved(
            candidates, arguments.rounds, arguments.warm_up, progress=not arguments.json
        )
        labels = [call() for call in candidates.values()]
    manifest = Manifest.read(arguments.artifact)
    report = {
        "machine": describe_machine(),
        "model": manifest.model.name,
        "precision": manifest.precision,
        "target": arguments.target,
        "image_size": list(manifest.input.shape[1:3]),
        "window_batch": arguments.window_batch,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "latency": {name: asdict(summary) for name, summary in timed.items()},
        "graph_to_loop": timed[GRAPH].p50_ms / timed[LOOP].p50_ms,
        "labels_equal": float((labels[0] == labels[1]).mean()),
        "peak_mib": {name: measure_peak_mib(_run_once, name, arguments) for name in candidates},
    }
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(report))
    return 0


def _check_artifacts(slide: Path, scores: Path) -> None:
    """Refuse two artifacts that do not belong together.

    Raises:
        ValueError: naming what differs.
    """
    whole, window = Manifest.read(slide), Manifest.read(scores)
    if whole.mode != "slide":
        raise ValueError(f"'{slide}' takes whole images; build it with --mode slide")
    crop = window.model.crop
    if window.outputs[0].name != "scores" or window.input.shape[1:3] != (crop, crop):
        raise ValueError(
            f"'{scores}': expected scores of one {crop}x{crop} window, got "
            f"{window.outputs[0].name} of {window.input.shape[1]}x{window.input.shape[2]}; build "
            "it with --output scores"
        )
    if (whole.model, whole.precision) != (window.model, window.precision):
        raise ValueError(f"'{slide}' and '{scores}' are different models or precisions")


def _open(name: str, arguments: argparse.Namespace, stack: ExitStack) -> Labeller:
    """Return what labels the first image of the slide artifact's `golden.npz`, `(H, W)`."""
    folder: Path = arguments.artifact if name == GRAPH else arguments.scores
    runtime = stack.enter_context(open_runtime(folder, arguments.target, threads=arguments.threads))
    with np.load(verify_file(arguments.artifact, "golden.npz")) as golden:
        image: NDArray[np.uint8] = golden["images"][0]
    if name == GRAPH:
        return lambda: np.asarray(runtime.infer(image[None])[0])
    model = Manifest.read(folder).model
    side, step, fill = model.crop, model.stride, model.mean
    if side is None or step is None or fill is None:
        raise ValueError(f"'{folder}' does not say its windows; build it again")
    crop, stride = (side, side), (step, step)
    predict = partial(infer_all, runtime)

    def label() -> NDArray[np.integer[Any]]:
        scores = score_slide(predict, image, crop, stride, fill, arguments.window_batch)
        return np.asarray(scores.argmax(axis=0))

    return label


def _run_once(name: str, arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        _open(name, arguments, stack)()


def _format(report: dict[str, Any]) -> str:
    lines = [f"{'':14}{'p50 ms':>10}{'p95 ms':>10}{'peak MiB':>10}"]
    for name, latency in report["latency"].items():
        figures = (latency["p50_ms"], latency["p95_ms"], report["peak_mib"][name])
        lines.append(f"{name:14}" + "".join(f"{figure:10.1f}" for figure in figures))
    height, width = report["image_size"]
    lines.append(
        f"{report['model']} {report['precision']} at {height}x{width} on {report['target']}: graph "
        f"to loop {report['graph_to_loop']:.2f}, {report['labels_equal']:.5f} of labels equal; "
        f"{report['machine']['processor']}, {report['threads']} threads"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slide",
        description="Time windows in the graph against a Python loop over windows, interleaved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="built with --mode slide")
    add("--scores", type=Path, required=True, metavar="DIR", help="built with --output scores")
    add("--target", choices=tuple(Target), default=Target.ORT.value, help="default ort")
    add("--window-batch", type=int, default=1, metavar="N", help="of the loop (default 1)")
    add("--rounds", type=int, default=10, help="calls of each (default 10)")
    add("--warm-up", type=float, default=0.5, metavar="SECONDS")
    add("--threads", type=int, default=2, help="CPU threads (default 2)")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if min(arguments.rounds, arguments.threads, arguments.window_batch) < 1:
        parser.error("--rounds, --threads and --window-batch must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
