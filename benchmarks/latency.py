"""`python -m benchmarks.latency`: artifacts and what one would use instead, in turns."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
from tqdm import tqdm

from benchmarks.caveats import find_label_caveats, find_latency_caveats, find_load_caveats
from benchmarks.concurrency import measure_concurrency
from benchmarks.end_to_end import choose_files, measure_end_to_end
from benchmarks.gpu_state import find_gpu_caveats, read_gpus
from benchmarks.intervals import compare_paired
from benchmarks.latency_options import parse_arguments
from benchmarks.latency_results import SCHEMA, compare_runs, read_latency
from benchmarks.load import LoadWatch, pin_threads
from benchmarks.machine import describe_machine
from benchmarks.memory import measure_peak_mib
from benchmarks.peers import (
    EAGER,
    Candidate,
    Opened,
    check_artifacts,
    list_candidates,
    open_candidate,
    run_once,
)
from benchmarks.result_files import Result, describe_command, write_result
from benchmarks.timing import Samples, Schedule, measure_rounds, summarise
from benchmarks.trtexec import run_trtexec
from engines.self_test import Golden, read_golden
from engines.target import COMPILERS, Target
from export.manifest import Manifest
from export.verify import GATES

_METHOD = {
    "timed": "wall time of a call, images and labels in host memory; transfers included on a GPU",
    "cuda_graph": "trt and trt-rtx replay one from the second call of a shape on; PyTorch and ONNX "
    "Runtime use none that they do not choose themselves",
    "wait": "the CPU waits in cudaStreamSynchronize; no spin wait is asked for",
    "ratio": "median over rounds of one latency over the other of the same round; percentile "
    "bootstrap over rounds, widened by their autocorrelation",
    "throughput": "images over the sum of the latencies, one call at a time",
}
_NOT_ON_CPU = "H2D, GPU compute, D2H, enqueue, GPU memory, energy: no candidate runs on a GPU"
_BLOCK_SECONDS = 0.5
_STAGE_SECONDS = 2.0
_SETTLE_SECONDS = 0.005  # ONNX Runtime and OpenMP spin for about a millisecond


def main(argv: Sequence[str] | None = None) -> int:
    """Time artifacts and, beside them, their peers."""
    arguments = parse_arguments(argv)
    earlier = read_latency(arguments.against) if arguments.against else None
    manifests = check_artifacts(arguments.artifact)
    first = manifests[0]
    golden = read_golden(arguments.artifact[0], first)
    gpus, watch = read_gpus(), LoadWatch()
    with ExitStack() as stack:
        cores = stack.enter_context(pin_threads(arguments.threads)) if arguments.pin else None
        runs = [
            _measure_batch(arguments, batch, golden, first)
            for batch in arguments.batch or (first.batch[1],)
        ]
    load, gpus_after, machine = watch.report(), read_gpus(), describe_machine()
    caveats = [
        *find_load_caveats(load, int(machine["cores"]), arguments.threads),
        *find_gpu_caveats(gpus, gpus_after),
        *_list_warnings(runs),
    ]
    result: Result = {
        "schema": SCHEMA,
        "command": describe_command("benchmarks.latency", argv),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "subject": {"model": first.model.name, "size": list(first.input.shape[1:3])},
        "artifacts": {
            folder.name: {"precision": manifest.precision, "files": manifest.files}
            for folder, manifest in zip(arguments.artifact, manifests, strict=True)
        },
        "threads": arguments.threads,
        "pinned_to": cores,
        "order": "interleaved, one call of each a round in an order drawn anew; transfers "
        "included, inputs in memory",
        "method": {
            **_METHOD,
            "warm_up_seconds": arguments.warm_up,
            "settle_seconds": _SETTLE_SECONDS,
            "seed": arguments.seed,
        },
        "load": load,
        "gpus": {"before": gpus, "after": gpus_after},
        **runs[0],
        "warnings": list(dict.fromkeys(caveats)),
        "sweep": runs if len(runs) > 1 else [],
    }
    if earlier is not None:
        result["against"] = compare_runs(result, earlier, arguments.against)
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else _format(result))
    return 0


def _list_warnings(runs: Sequence[Result]) -> list[str]:
    """Return the warnings of each batch size, which is named where there are several."""
    return [
        f"batch {run['batch']}: {text}" if len(runs) > 1 else text
        for run in runs
        for text in run["warnings"]
    ]


def _measure_batch(
    arguments: argparse.Namespace, batch: int, golden: Golden, manifest: Manifest
) -> Result:
    """Return all figures of one batch size; everything is opened for it and closed after."""
    candidates, left_out = list_candidates(
        arguments.artifact, arguments.target, arguments.vs, arguments.threads, batch,
        arguments.checkpoint,
    )  # fmt: skip
    taken = np.arange(batch) % len(golden.images)
    sample = Golden(np.ascontiguousarray(golden.images[taken]), golden.labels[taken])
    schedule = Schedule(
        arguments.rounds, arguments.duration, arguments.warm_up, arguments.seed, _SETTLE_SECONDS
    )
    with ExitStack() as stack:
        files = choose_files(arguments.images, sample.images, stack)
        opened = {c.name: open_candidate(c, stack) for c in candidates}
        calls = {name: partial(one.infer, sample.images) for name, one in opened.items()}
        samples = measure_rounds(calls, schedule, not arguments.json)
        parts = [
            _summarise(samples, batch, arguments.seed),
            _compare_labels(candidates, opened, sample, manifest),
        ]
        report: Result = {"notes": [*left_out, *(n for one in opened.values() for n in one.notes)]}
        if arguments.end_to_end:
            size, count = sample.images.shape[1:3], len(manifest.classes)
            engines = {name: one.infer for name, one in opened.items()}
            report["end_to_end"] = measure_end_to_end(
                engines, files, size, count, schedule, not arguments.json
            )
        if arguments.streams > 1:
            report["concurrency"] = _measure_streams(arguments.streams, candidates, opened, sample)
    parts.append(_measure_gpu(candidates, sample))
    if "trtexec" in arguments.vs:
        seconds = arguments.duration or sum(map(sum, samples.values())) / 1e3
        report["trtexec"] = run_trtexec(arguments.artifact[0], batch, seconds, arguments.warm_up)
    if not arguments.no_memory:
        report["peak_mib"] = {
            c.name: measure_peak_mib(run_once, c, sample.images)
            for c in tqdm(candidates, desc="memory", disable=arguments.json, leave=False)
        }
    warnings = [text for part in parts for text in part.pop("warnings")]
    return {**report, **{key: value for part in parts for key, value in part.items()},
            "warnings": warnings}  # fmt: skip


def _summarise(samples: Samples, batch: int, seed: int) -> Result:
    timed = {name: summarise(values) for name, values in samples.items()}
    names = list(samples)
    ratios = {
        name: {
            other: asdict(compare_paired(samples[name], samples[other], seed))
            for other in names[:index]
        }
        for index, name in enumerate(names)
    }
    to_eager = {name: others[EAGER]["ratio"] for name, others in ratios.items() if EAGER in others}
    return {
        "batch": batch,
        "rounds": len(samples[names[0]]),
        "latency": {name: asdict(summary) for name, summary in timed.items()},
        "images_per_second": {
            name: batch * len(values) / sum(values) * 1e3 for name, values in samples.items()
        },
        "ratios": ratios,
        "ratio_to_eager": {EAGER: 1.0, **to_eager} if EAGER in names else {},
        "samples_ms": {name: [round(v, 4) for v in values] for name, values in samples.items()},
        "warnings": find_latency_caveats(timed),
    }


def _compare_labels(
    candidates: Sequence[Candidate],
    opened: Mapping[str, Opened],
    sample: Golden,
    manifest: Manifest,
) -> Result:
    """Return the shares of labels equal to the golden ones and to each other's, and caveats.

    Weights that the build drew are drawn anew for what is made from the reference: it labels
    differently. No random weights are gated: their labels are near-ties.
    """
    drawn, random = manifest.model.checkpoint_sha256 is None, manifest.model.random_weights
    labels = {name: np.asarray(one.infer(sample.images)) for name, one in opened.items()}
    golden = {
        c.name: float((labels[c.name] == sample.labels).mean())
        for c in candidates
        if not (drawn and c.from_torch)
    }
    each_other = {
        one.name: {
            other.name: float((labels[one.name] == labels[other.name]).mean())
            for other in candidates[:index]
            if not drawn or not (one.from_torch or other.from_torch)
        }
        for index, one in enumerate(candidates)
    }
    gates = {c.name: None if random else GATES[c.precision].pixel_agreement for c in candidates}
    return {
        "labels_equal_to_golden": golden,
        "labels_equal": each_other,
        "warnings": find_label_caveats(golden, gates),
    }


def _measure_streams(
    streams: int, candidates: Sequence[Candidate], opened: Mapping[str, Opened], sample: Golden
) -> Result:
    """Return the throughput of the artifacts with several calls at once, and with one."""
    own = [c for c in candidates if c.kind == "artifact"]
    with ExitStack() as stack:
        shared = {c.name: open_candidate(replace(c, instances=streams), stack).infer for c in own}
        alone = {c.name: opened[c.name].infer for c in own}
        return measure_concurrency(alone, shared, sample.images, streams, _BLOCK_SECONDS)


def _measure_gpu(candidates: Sequence[Candidate], sample: Golden) -> Result:
    """Return the stages of what runs on a GPU, or that nothing does."""
    own = [c for c in candidates if c.kind == "artifact" and c.target in COMPILERS]
    if not own:
        return {"gpu_stages": {}, "not_measured": _NOT_ON_CPU, "warnings": []}
    from benchmarks.gpu_stages import find_stage_caveats, measure_gpu_stages

    stages = {
        c.name: measure_gpu_stages(c.folder, Target(c.target), sample.images, _STAGE_SECONDS)
        for c in own
    }
    return {
        "gpu_stages": {name: asdict(one) for name, one in stages.items()},
        "warnings": [t for name, one in stages.items() for t in find_stage_caveats(name, one)],
    }


def _format(result: Result) -> str:
    """Return the table of a result, and what to know of it."""
    tables = [_format_table(run) for run in result["sweep"] or [result]]
    machine, load = result["machine"], result["load"]
    pinned = f" on cores {result['pinned_to']}" if result["pinned_to"] else ""
    others = load["during"]["other_cores"]
    lines = [
        *(line for table in tables for line in table),
        f"{result['subject']['model']}; {machine['processor']}, {result['threads']} threads"
        f"{pinned}; other processes kept {others:.2f} of {machine['cores']} cores busy",
    ]
    for pair, row in result.get("against", {}).get("ratios", {}).items():
        verdict = "overlaps" if row["overlap"] else "does not overlap"
        lines.append(f"{pair}: the interval {verdict} with the earlier run's")
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines + [f"warning: {warning}" for warning in result["warnings"]])


def _format_table(run: Result) -> list[str]:
    width = max(24, *(len(name) + 2 for name in run["latency"]))
    base = next(iter(run["latency"]))
    lines = [
        f"batch {run['batch']}, {run['rounds']} interleaved rounds; ratios to {base}",
        f"{'':{width}}{'p50 ms':>9}{'p95 ms':>9}{'images/s':>10}{'ratio':>8}{'95 %':>14}"
        f"{'labels':>9}{'peak MiB':>10}",
    ]
    for name, summary in run["latency"].items():
        interval = run["ratios"][name].get(base)
        shown = f"{1:8.3f}{'':14}"
        if interval is not None:
            bounds = f"{interval['low']:.3f}-{interval['high']:.3f}"
            shown = f"{interval['ratio']:8.3f}{bounds:>14}"
        cells = [run["labels_equal_to_golden"].get(name), run.get("peak_mib", {}).get(name)]
        equal = f"{'-':>9}" if cells[0] is None else f"{cells[0]:9.5f}"
        peak = f"{'-':>10}" if cells[1] is None else f"{cells[1]:10.0f}"
        lines.append(
            f"{name:{width}}{summary['p50_ms']:9.2f}{summary['p95_ms']:9.2f}"
            f"{run['images_per_second'][name]:10.1f}{shown}{equal}{peak}"
        )
    for name, row in run.get("end_to_end", {}).items():
        parts = ", ".join(f"{stage} {ms:.1f}" for stage, ms in row["stages_p50_ms"].items())
        lines.append(f"{name}: {row['whole']['p50_ms']:.1f} ms from files to files ({parts})")
    for name, row in run.get("concurrency", {}).items():
        rates = ", ".join(f"{n}: {rate:.1f}" for n, rate in row["images_per_second"].items())
        lines.append(f"{name}: images/s by calls at once, {rates}")
    return lines


if __name__ == "__main__":
    run_main(main)
