"""`python -m benchmarks.runtime_overhead`: what our runtime adds to its library's bare call."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import statistics
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from benchmarks.timing import time_interleaved
from engines.arrays import Images, batch_shape
from engines.devices import parse_device
from engines.runtime import Runtime
from engines.self_test import read_golden
from engines.target import Target
from export.manifest import Manifest
from segvit.images import write_png

BARE, INFER, INTO = "bare call", "infer", "infer into out"
_ALLOCATION_CALLS = 5
_CPP_BLOCKS = 15  # a machine shared with others changes its pace from block to block
_EPILOG = """\
example:
  python -m benchmarks.runtime_overhead --artifact artifacts/vit_t_landcover-256x256-fp16 \\
      --target ort --rounds 50
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Time a runtime and the bare session or request inside it."""
    arguments = _parse_arguments(argv)
    manifest = Manifest.read(arguments.artifact)
    images = _take_images(arguments.artifact, manifest)
    engine, bare = _load(arguments, manifest, images)
    with Runtime(engine, manifest) as runtime:
        out = np.empty(batch_shape(runtime.output, len(images)), runtime.output.dtype)
        calls: dict[str, Callable[[], object]] = {
            BARE: bare,
            INFER: partial(runtime.infer, images),
            INTO: partial(runtime.infer, images, out),
        }
        timed = time_interleaved(
            calls, arguments.rounds, arguments.warm_up, progress=not arguments.json
        )
        peaks = {name: _traced_peak(call) for name, call in calls.items()}
        beside = _time_cpp(arguments, calls[INTO], images) if arguments.cpp else None
    base = timed[BARE].p50_ms
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "artifact": arguments.artifact.name,
        "target": arguments.target,
        "threads": arguments.threads,
        "batch": len(images),
        "rounds": arguments.rounds,
        "order": "interleaved, one call of each in turn, on one loaded engine; inputs in memory",
        "latency": {name: asdict(summary) for name, summary in timed.items()},
        "overhead": {name: timed[name].p50_ms / base - 1 for name in (INFER, INTO)},
        "allocated": {
            "how": "tracemalloc's peak above what was held before, over calls after warm-up: all "
            "that Python and NumPy allocate, not the library's own memory",
            "image_bytes": images.nbytes,
            "output_bytes": out.nbytes,
            "peak_bytes": peaks,
        },
    }
    if beside is not None:
        report["cpp"] = beside
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else _format(report))
    return 0


def _take_images(folder: Path, manifest: Manifest) -> Images:
    """Return the typical batch of the artifact's own images."""
    images = read_golden(folder, manifest).images
    indices = np.arange(manifest.batch[1]) % len(images)
    return np.ascontiguousarray(images[indices])


def _load(
    arguments: argparse.Namespace, manifest: Manifest, images: Images
) -> tuple[Any, Callable[[], object]]:
    """Return the engine, and a call of the library inside it as its documentation has it."""
    device = parse_device("cpu")
    source, result = manifest.input.name, manifest.outputs[0].name
    if arguments.target == Target.ORT:
        from engines.ort_runtime import OrtEngine

        ort = OrtEngine(arguments.artifact, manifest, device, arguments.threads)
        return ort, partial(ort.session.run, [result], {source: images})
    from engines.openvino_runtime import OpenVinoEngine

    openvino = OpenVinoEngine(arguments.artifact, manifest, device, arguments.threads)
    request = openvino.compiled.create_infer_request()
    return openvino, partial(request.infer, {source: images}, share_inputs=True)


def _traced_peak(call: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at once while warm calls ran."""
    tracemalloc.start()
    try:
        call()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(_ALLOCATION_CALLS):
            call()
        return max(tracemalloc.get_traced_memory()[1] - held, 0)
    finally:
        tracemalloc.stop()


def _time_cpp(
    arguments: argparse.Namespace, call: Callable[[], object], images: Images
) -> dict[str, Any]:
    """Return the C++ tool's p50 beside Python's on the same image, in turns of blocks.

    Raises:
        RuntimeError: if the tool fails, with what it said.
    """
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        write_png(path, images[0])
        for _ in range(_CPP_BLOCKS):
            block = time_interleaved({INTO: call}, arguments.rounds, 0.0, progress=False)
            ours.append(block[INTO].p50_ms)
            theirs.append(_run_cpp(arguments, path))
    python, cpp = statistics.median(ours), statistics.median(theirs)
    return {
        "order": f"{_CPP_BLOCKS} blocks of {arguments.rounds} calls each, in turns",
        "python_p50_ms": python,
        "cpp_p50_ms": cpp,
        "ratio_to_python": cpp / python,
    }


def _run_cpp(arguments: argparse.Namespace, image: Path) -> float:
    command = [
        arguments.cpp, "--artifact", arguments.artifact, "--target", arguments.target, "--threads",
        arguments.threads, "--benchmark", arguments.rounds, "--json", image,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or "nothing"
        raise RuntimeError(f"'{arguments.cpp}' ended with {done.returncode} and said: {said}")
    return float(json.loads(done.stdout)["median_ms"])


def _format(report: dict[str, Any]) -> str:
    lines = [f"{'':16}{'p50 ms':>9}{'p95 ms':>9}{'overhead':>10}{'allocated':>12}"]
    peaks = report["allocated"]["peak_bytes"]
    for name, summary in report["latency"].items():
        overhead = report["overhead"].get(name)
        shown = f"{overhead:10.2%}" if overhead is not None else f"{'':10}"
        allocated = f"{peaks[name] / 1000:9.1f} kB"
        lines.append(f"{name:16}{summary['p50_ms']:9.2f}{summary['p95_ms']:9.2f}{shown}{allocated}")
    if "cpp" in report:
        cpp = report["cpp"]
        lines.append(
            f"C++ {cpp['cpp_p50_ms']:.2f} ms, Python {cpp['python_p50_ms']:.2f} ms: "
            f"{cpp['ratio_to_python']:.3f} of it"
        )
    machine, image = report["machine"], report["allocated"]["image_bytes"]
    lines.append(
        f"{report['artifact']} on {report['target']}, {machine['processor']}, {report['threads']} "
        f"threads, batch {report['batch']} ({image / 1000:.0f} kB), {report['rounds']} interleaved "
        f"rounds, load {machine['load_1_min']}"
    )
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtime_overhead",
        description="Time Runtime.infer and the bare call of the library inside it, interleaved, "
        "and what both allocate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR")
    parser.add_argument("--target", choices=(Target.ORT, Target.OPENVINO), default=Target.ORT)
    parser.add_argument("--cpp", type=Path, metavar="FILE", help="also time segvit-segment")
    parser.add_argument("--rounds", type=int, default=50, help="calls of each (default 50)")
    parser.add_argument("--warm-up", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if arguments.cpp and arguments.target != Target.OPENVINO:
        parser.error("--cpp is compared on --target openvino")
    return arguments


if __name__ == "__main__":
    run_main(main)
