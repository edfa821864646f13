"""What the report shows of one result of `benchmarks.latency`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.report_plots import plot_latencies
from benchmarks.report_tables import Cell, Table, figure, make_table

Result = Mapping[str, Any]
_PERCENTILES = ("min", "mean", "p50", "p90", "p95", "p99", "max")
_GPU_STATE = (
    ("Others' processes", "other_processes"),
    ("Busy, %", "utilisation_percent"),
    ("Memory used, MiB", "memory_used_mib"),
    ("SM clock, MHz", "sm_clock_mhz"),
    ("Memory clock, MHz", "memory_clock_mhz"),
    ("°C", "temperature_c"),
)
_METHOD = (
    ("Timed", "timed"),
    ("CUDA graphs", "cuda_graph"),
    ("Waiting", "wait"),
    ("Ratios", "ratio"),
    ("Throughput", "throughput"),
)


def describe_latency(result: Result) -> dict[str, Any]:
    """Return the block of one result: verdict, facts, plot, tables, warnings and notes.

    Raises:
        KeyError: if the result lacks what every result has.
    """
    tables = (
        _table_overview(result),
        _table_percentiles(result),
        _table_ratios(result),
        _table_batches(result),
        _table_end_to_end(result),
        _table_concurrency(result),
        _table_gpu_stages(result),
        _table_trtexec(result),
        _table_gpus(result),
        _table_against(result),
    )
    return {
        "summary": f"{result['machine']['processor']}, {result['threads']} threads, batch "
        f"{result['batch']}, {result['rounds']} rounds; {result['order']}.",
        "verdict": _describe_ratios(result),
        "facts": list(_list_facts(result)),
        "plot": plot_latencies(result.get("samples_ms", {})),
        "tables": [table for table in tables if table],
        "warnings": list(result.get("warnings", ())),
        "notes": list(_list_notes(result)),
        "command": result.get("command", ""),
        "precisions": {name: one["precision"] for name, one in result["artifacts"].items()},
        "medians_ms": dict(_list_medians(result)),
    }


def find_measured(run: Mapping[str, Any], folder: str, engine: str) -> tuple[str, float] | None:
    """Return what was measured of an artifact's engine and its median in ms, None if nothing.

    Args:
        run: what `describe_latency` gave.
        folder: name of the artifact's folder.
        engine: `trt-rtx fp16`, say; the folder follows in parentheses where two share a precision.
    """
    precision = engine.rpartition(" ")[2]
    alike = [name for name, other in run["precisions"].items() if other == precision]
    names = [f"{engine} ({folder})", *([engine] if alike[:1] == [folder] else [])]
    found: dict[str, tuple[str, float]] = run["medians_ms"]
    return next((found[name] for name in names if name in found), None)


def _list_medians(result: Result) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield each candidate with what its median is of: the GPU's stage where there is one."""
    for name, row in result["latency"].items():
        yield name, ("a call with copies", row["p50_ms"])
    for name, stages in result.get("gpu_stages", {}).items():
        yield name, ("GPU compute", stages["compute"]["p50_ms"])


def _describe_ratios(result: Result) -> str:
    """Return every candidate's ratio to the first one in a sentence, empty if there is one."""
    base = next(iter(result["latency"]))
    shown = [
        f"{name} {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for name, others in result["ratios"].items()
        if (row := others.get(base))
    ]
    return f"as a share of {base}: {'; '.join(shown)}." if shown else ""


def _list_facts(result: Result) -> Iterator[tuple[str, str]]:
    machine, load = result["machine"], result.get("load")
    if "instructions" in machine:
        yield "Instructions", machine["instructions"]
    cores = result.get("pinned_to")
    yield "Threads", f"{result['threads']}, {f'pinned to cores {cores}' if cores else 'not pinned'}"
    if load:
        during = load["during"]
        yield (
            "Load",
            f"other processes kept {load['other_cores_before']:.2f} cores busy before and "
            f"{during['other_cores']:.2f} of {machine['cores']} during the run; "
            f"{during['stolen_cores']:.2f} were given to other machines",
        )
        clocks = (load["clocks_mhz_before"], load["clocks_mhz_after"])
        if all(clocks):
            first, last = (", ".join(map(str, dict.fromkeys(values))) for values in clocks)
            yield "Clocks", f"{first} MHz before, {last} MHz after"
        slowed = load["throttled"]
        yield "Slowed for heat", "not told by this system" if slowed is None else f"{slowed} times"
    method = result.get("method", {})
    yield from ((title, method[key]) for title, key in _METHOD if key in method)
    if "warm_up_seconds" in method:
        yield (
            "Warm-up and rest",
            f"{method['warm_up_seconds']} s of each, {method['settle_seconds']} s before each call",
        )


def _list_notes(result: Result) -> Iterator[str]:
    yield from result.get("notes", ())
    runs = [result, *result.get("sweep", ())]
    yield from dict.fromkeys(f"Not measured: {run['not_measured']}." for run in runs
                             if "not_measured" in run)  # fmt: skip
    gpus = result.get("gpus", {}).get("before", {})
    if "not_read" in gpus:
        yield f"No state of a GPU: {gpus['not_read']}."


def _ratio(row: Mapping[str, Any] | None) -> Cell | None:
    return figure(row["ratio"], ".3f", (row["low"], row["high"])) if row else None


def _table_overview(result: Result) -> Table | None:
    base = next(iter(result["latency"]))
    rates, peaks = result.get("images_per_second", {}), result.get("peak_mib", {})
    equal = result.get("labels_equal_to_golden", {})
    return make_table(
        "At a glance; memory is the process's own, of a process that runs nothing else",
        ("Candidate", "Median, ms", f"Of {base}'s latency", "Images/s", "Labels equal",
         "Host peak, MiB"),
        [
            (name, figure(row["p50_ms"]), _ratio(result["ratios"][name].get(base)),
             figure(rates.get(name), ".1f"), figure(equal.get(name), ".5f"),
             figure(peaks.get(name), ".0f"))
            for name, row in result["latency"].items()
        ],
    )  # fmt: skip


def _table_percentiles(result: Result) -> Table | None:
    return make_table(
        "Milliseconds a call",
        ("Candidate", *_PERCENTILES, "Calls", "Deviation"),
        [
            (name, *(figure(row[f"{key}_ms"]) for key in _PERCENTILES),
             figure(row["calls"], "d"), figure(row["cv"], ".1%"))
            for name, row in result["latency"].items()
        ],
    )  # fmt: skip


def _table_ratios(result: Result) -> Table | None:
    """Return the ratios of all pairs, None where the overview has them all."""
    base = next(iter(result["latency"]))
    return make_table(
        "Ratios of the others, paired by round; 95 % intervals",
        ("Candidate", "Against", "Ratio"),
        [
            (name, other, _ratio(row))
            for name, others in result["ratios"].items()
            for other, row in others.items()
            if other != base
        ],
    )


def _table_batches(result: Result) -> Table | None:
    rows = []
    for run in result.get("sweep", ()):
        base = next(iter(run["latency"]))
        for name, row in run["latency"].items():
            rows.append(
                (name, figure(run["batch"], "d"), figure(row["p50_ms"]), figure(row["p95_ms"]),
                 figure(run["images_per_second"][name], ".1f"),
                 _ratio(run["ratios"][name].get(base)),
                 figure(run.get("peak_mib", {}).get(name), ".0f"))
            )  # fmt: skip
    return make_table(
        "By batch; ratios are to the first candidate of the same batch",
        ("Candidate", "Batch", "p50, ms", "p95, ms", "Images/s", "Ratio", "Host peak, MiB"),
        rows,
    )


def _table_end_to_end(result: Result) -> Table | None:
    found = result.get("end_to_end", {})
    stages = list(dict.fromkeys(name for row in found.values() for name in row["stages_p50_ms"]))
    return make_table(
        "End to end, from image files to label files: milliseconds a call, medians by stage",
        ("Candidate", "Whole, p50", "Whole, p95", *(stage.capitalize() for stage in stages)),
        [
            (name, figure(row["whole"]["p50_ms"]), figure(row["whole"]["p95_ms"]),
             *(figure(row["stages_p50_ms"].get(stage)) for stage in stages))
            for name, row in found.items()
        ],
    )  # fmt: skip


def _table_concurrency(result: Result) -> Table | None:
    found = result.get("concurrency", {})
    counts = list(dict.fromkeys(n for row in found.values() for n in row["images_per_second"]))
    return make_table(
        "Streams: images a second by calls at once, each on an instance of its own",
        ("Candidate", *(f"{count} at once" for count in counts), "Gain"),
        [
            (name, *(figure(row["images_per_second"].get(count), ".1f") for count in counts),
             _ratio(row["gain"]))
            for name, row in found.items()
        ],
    )  # fmt: skip


def _table_gpu_stages(result: Result) -> Table | None:
    return make_table(
        "On the GPU, by CUDA events: milliseconds a call; enqueue is the CPU's time",
        ("Engine", "H2D, p50", "Compute, p50", "Compute, p99", "D2H, p50", "Enqueue, p50",
         "GPU's energy, mJ"),
        [
            (name, figure(row["h2d"]["p50_ms"], ".3f"), figure(row["compute"]["p50_ms"], ".3f"),
             figure(row["compute"]["p99_ms"], ".3f"), figure(row["d2h"]["p50_ms"], ".3f"),
             figure(row["enqueue"]["p50_ms"], ".3f"), figure(row["energy_mj"], ".1f"))
            for name, row in result.get("gpu_stages", {}).items()
        ],
    )  # fmt: skip


def _table_trtexec(result: Result) -> Table | None:
    found = result.get("trtexec", {})
    return make_table(
        f"trtexec {' '.join(found.get('switches', ()))}: milliseconds; {found.get('order', '')}",
        ("Figure", "p50", "p90", "p95", "p99", "Calls"),
        [
            (name, *(figure(row[f"{key}_ms"], ".3f") for key in ("p50", "p90", "p95", "p99")),
             figure(row["calls"], "d"))
            for name, row in found.items() if isinstance(row, Mapping)
        ],
    )  # fmt: skip


def _table_gpus(result: Result) -> Table | None:
    gpus = result.get("gpus", {})
    rows = []
    for when in ("before", "after"):
        for index, gpu in enumerate(gpus.get(when, {}).get("gpus", ())):
            state = (figure(gpu.get(key), ".0f") for _, key in _GPU_STATE)
            slowed = ", ".join(gpu.get("throttled_by", ())) or "no"
            rows.append((f"GPU {index}, {gpu['name']}", when, *state, slowed))
    return make_table(
        "State of the GPUs before and after the run",
        ("GPU", "When", *(title for title, _ in _GPU_STATE), "Throttled"),
        rows,
    )


def _table_against(result: Result) -> Table | None:
    against = result.get("against", {"ratios": {}})
    rows = []
    for name, others in result["ratios"].items():
        for other, now in others.items():
            pair = f"{name} / {other}"
            if row := against["ratios"].get(pair):
                verdict = "yes" if row["overlap"] else "no"
                rows.append((pair, _ratio(row["then"]), _ratio(now), verdict))
    return make_table(
        f"Beside an earlier run, {against.get('file', '')}: do the 95 % intervals overlap?",
        ("Ratio", "Then", "Now", "Overlap"),
        rows,
    )
