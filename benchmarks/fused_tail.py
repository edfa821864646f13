"""`python -m benchmarks.fused_tail`: the tail as one kernel, beside the plain chain."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.result_files import write_result
from engines.fused_tail import (
    ITEM_BYTES,
    CompiledTail,
    Datatype,
    TailShape,
    choose_blocks,
    compile_tail,
    count_blocks,
    count_fused_bytes,
    count_plain_bytes,
    run_tail,
)
from export.folded_head import CLASS_ALIGNMENT
from export.tail import Tail
from segvit.atomic import write_bytes
from segvit.config import VARIANTS, SegViTConfig, find_variant

_CAPABILITIES = ("SM80", "SM89", "SM90", "SM120")
_TYPES: dict[Datatype, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
PLAIN = "plain tail"
_WARM_UP_CALLS = 10
_EPILOG = """\
example:
  python -m benchmarks.fused_tail --model vit_b_ade20k --precision fp16
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the kernel for every architecture, count bytes, and time it where a GPU is."""
    arguments = _parse_arguments(argv)
    datatype: Datatype = arguments.precision
    shape = describe_tail(find_variant(arguments.model))
    kernels = [
        compile_tail(shape, datatype, capability)
        for capability in tqdm(
            arguments.compute_capability, unit="kernel", disable=arguments.json, leave=False
        )
    ]
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "model": arguments.model,
        "precision": datatype,
        "batch": arguments.batch,
        "shape": vars(shape),
        "bytes": count_bytes(shape, datatype, arguments.batch),
        "kernels": {kernel.compute_capability: _describe(kernel) for kernel in kernels},
    }
    if torch.cuda.is_available():
        report["gpu"] = torch.cuda.get_device_name()
        report.update(time_on_gpu(shape, datatype, arguments.batch, arguments.rounds))
    else:
        report["not_timed"] = "PyTorch finds no NVIDIA GPU here: compiled, not run, not timed"
    written = _write_kernels(kernels, arguments.kernels) if arguments.kernels else []
    if arguments.out:
        write_result(arguments.out, report)
        written.append(arguments.out)
    print(json.dumps(report, indent=2) if arguments.json else _format(report))
    if not arguments.json:
        print(*(f"wrote {path}" for path in written), sep="\n", end="\n" if written else "")
    return 0


def describe_tail(config: SegViTConfig) -> TailShape:
    """Return the tail of a model at its training crop: one query a class, and "no object"."""
    columns = config.num_classes + 1
    side = config.image_size
    return TailShape(
        queries=config.num_classes,
        classes=config.num_classes,
        padded_classes=columns + -columns % CLASS_ALIGNMENT,
        grid=(config.grid_size, config.grid_size),
        size=(side, side),
    )


def count_bytes(shape: TailShape, datatype: Datatype, batch: int) -> dict[str, int]:
    """Return bytes to and from memory, and what the fused kernel reads again from the caches.

    Every block of pixels reads all class probabilities of its image.
    """
    programs = batch * count_blocks(shape, choose_blocks(shape, datatype))
    probabilities = shape.queries * shape.classes * ITEM_BYTES[datatype]
    return {
        "fused": count_fused_bytes(shape, datatype, batch),
        "plain": count_plain_bytes(shape, datatype, batch),
        "reread_from_caches": programs * probabilities,
    }


def time_on_gpu(shape: TailShape, datatype: Datatype, batch: int, rounds: int) -> dict[str, Any]:
    """Return `gpu_ms`, by candidate, and `labels_equal`, the share that is the plain tail's.

    The plain chain runs as PyTorch has it and through `torch.compile`; the kernel with the default
    block of pixels and with twice that. CUDA events, one call of each a round.
    """
    torch.manual_seed(0)
    logits = torch.randn(batch, shape.queries, shape.padded_classes, device="cuda")
    logits[:, :, shape.classes :] = -torch.inf
    classes = logits.softmax(dim=2).to(_TYPES[datatype])
    masks = torch.randn(batch, shape.queries, shape.grid[0] * shape.grid[1], device="cuda") * 4
    masks = masks.to(_TYPES[datatype])
    plain = Tail(shape.classes, shape.grid, shape.size, shape.size, "labels", 1)
    candidates: dict[str, Callable[[], Tensor]] = {
        PLAIN: lambda: plain(classes, masks),
        f"{PLAIN}, torch.compile": _bind(torch.compile(plain), classes, masks),
    }
    blocks = choose_blocks(shape, datatype)
    for each in (blocks, replace(blocks, pixels=2 * blocks.pixels)):
        labels = torch.empty(batch, *shape.size, dtype=plain.dtype, device="cuda")

        def run(each: Any = each, labels: Tensor = labels) -> Tensor:
            run_tail(classes, masks, labels, shape, each)
            return labels

        candidates[f"fused, {each.pixels} pixels"] = run
    with torch.inference_mode():
        expected = candidates[PLAIN]()
        equal = {
            name: float((call() == expected).float().mean()) for name, call in candidates.items()
        }
        return {"gpu_ms": _time(candidates, rounds), "labels_equal": equal}


def _bind(call: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    return lambda: call(*inputs)


def _time(candidates: Mapping[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return median milliseconds on the GPU."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(_WARM_UP_CALLS + rounds):
        for name, call in candidates.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if index >= _WARM_UP_CALLS:
                samples[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in samples.items()}


def _describe(kernel: CompiledTail) -> dict[str, Any]:
    return {
        "registers": kernel.registers,
        "spilled_bytes": kernel.spilled_bytes,
        "shared_bytes": kernel.shared_bytes,
        "threads": 32 * kernel.blocks.warps,
        "blocks": vars(kernel.blocks),
        "cubin_bytes": len(kernel.cubin),
    }


def _write_kernels(kernels: Sequence[CompiledTail], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kernel in kernels:
        stem = f"fused_tail_{kernel.compute_capability.lower()}"
        for suffix, content in (("ptx", kernel.ptx.encode()), ("cubin", kernel.cubin)):
            written.append(folder / f"{stem}.{suffix}")
            write_bytes(written[-1], content)
    return written


def _format(report: Mapping[str, Any]) -> str:
    moved, shape = report["bytes"], report["shape"]
    (h, w), (height, width) = shape["grid"], shape["size"]
    lines = [
        f"{report['model']}, {report['precision']}, batch {report['batch']}: {shape['queries']} "
        f"masks of {h}x{w} to {shape['classes']} classes at {height}x{width}",
        f"{moved['fused'] / 1e6:.2f} MB moved, {moved['plain'] / 1e6:.0f} by the plain tail; "
        f"{moved['reread_from_caches'] / 1e6:.0f} MB reread from caches",
        f"{'':10}{'registers':>10}{'spilled B':>10}{'shared B':>10}{'threads':>10}{'cubin B':>10}",
    ]
    fields = ("registers", "spilled_bytes", "shared_bytes", "threads", "cubin_bytes")
    for name, kernel in report["kernels"].items():
        lines.append(f"{name:10}" + "".join(f"{kernel[field]:>10}" for field in fields))
    if "not_timed" in report:
        return "\n".join([*lines, report["not_timed"]])
    lines.append(f"{report['gpu']}: median ms, labels equal to the {PLAIN}'s")
    for name, median in report["gpu_ms"].items():
        lines.append(f"{name:28}{median:>10.3f}{report['labels_equal'][name]:>10.4%}")
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fused_tail",
        description="Compile the experimental fused tail (Triton) ahead of time, count what it "
        "moves, and time it against the plain tail where there is a GPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), default="vit_b_ade20k", metavar="NAME")
    parser.add_argument("--precision", choices=list(_TYPES), default="fp16")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N")
    parser.add_argument(
        "--compute-capability", nargs="+", default=list(_CAPABILITIES), metavar="SM"
    )
    parser.add_argument("--rounds", type=_positive, default=200, metavar="N", help="timed calls")
    parser.add_argument("--kernels", type=Path, metavar="DIR", help="write PTX and cubins there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got '{text}'")
    return int(text)


if __name__ == "__main__":
    run_main(main)
