"""How long an engine would take at a GPU's published peaks: an estimate that needs no GPU.

A kernel takes the longer of its arithmetic at the peak of its datatype and its traffic at the peak
of the memory, and a launch. Real kernels reach neither peak, and what the caches hold never leaves
them, so estimates rank engines of one model; they predict no latency.
Source: Roofline: An Insightful Visual Performance Model (doi:10.1145/1498765.1498785).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from engines.graph import load_without_weights
from engines.kernels import Kernel

# An assumption: what lies between dependent kernels that are replayed from a CUDA graph is of this
# order on every GPU listed. It is why fewer kernels count.
LAUNCH_US = 1.5
_NO_BF16 = frozenset({"SM75"})


@dataclass(frozen=True)
class Gpu:
    """Published peaks: `bandwidth_gb_s` of memory, `tera_ops` a second by datatype.

    Dense products, with FP32 sums where the vendor tells them apart; a multiply-add is two. BF16
    runs as fast as FP16 wherever tensor cores know it, which is from SM80 on.
    """

    name: str
    compute_capability: str
    bandwidth_gb_s: float
    tera_ops: Mapping[str, float]
    source: str

    def find_peak(self, datatype: str) -> float | None:
        """Return tera-operations a second in a datatype as the builders spell it, or None."""
        if datatype == "BFloat16":
            return self.tera_ops.get("Half") if self.compute_capability not in _NO_BF16 else None
        return self.tera_ops.get(datatype)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", "SM75", 320, {"Float": 8.1, "Half": 65, "Int8": 130}, "NVIDIA T4 datasheet"),
        Gpu("L4", "SM89", 300, {"Float": 30.3, "Half": 121, "Int8": 242, "FP8": 242},
            "NVIDIA L4 datasheet, without sparsity"),
        Gpu("RTX-4090", "SM89", 1008, {"Float": 82.6, "Half": 165.2, "Int8": 660.6, "FP8": 330.3},
            "NVIDIA Ada GPU architecture whitepaper, appendix A"),
        Gpu("RTX-5090", "SM120", 1792, {"Float": 104.8, "Half": 209.5, "Int8": 838, "FP8": 419},
            "NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A"),
        Gpu("A100", "SM80", 2039, {"Float": 19.5, "Half": 312, "Int8": 624},
            "NVIDIA A100 datasheet, 80 GB SXM"),
        Gpu("H100", "SM90", 3350, {"Float": 67, "Half": 989.5, "Int8": 1979, "FP8": 1979},
            "NVIDIA H100 datasheet, SXM, without sparsity"),
    )
}  # fmt: skip


DEFAULT_GPU = "RTX-4090"


def find_gpu(compute_capability: str) -> Gpu | None:
    """Return a listed GPU of that compute capability, the default one if it fits; None if none."""
    like = [gpu for gpu in GPUS.values() if gpu.compute_capability == compute_capability]
    return GPUS[DEFAULT_GPU] if GPUS[DEFAULT_GPU] in like else next(iter(like), None)


@dataclass(frozen=True)
class KernelEstimate:
    """One kernel at a GPU's peaks, in microseconds; `flops` and `byte_count` are of one launch."""

    kernel: Kernel
    flops: float
    byte_count: int
    arithmetic_us: float
    memory_us: float

    @property
    def total_us(self) -> float:
        """The longer of arithmetic and traffic, and the launch."""
        return max(self.arithmetic_us, self.memory_us) + LAUNCH_US

    @property
    def bound(self) -> str:
        """What takes longest: `arithmetic`, `memory` or `launch`."""
        longest = max(self.arithmetic_us, self.memory_us)
        if longest < LAUNCH_US:
            return "launch"
        return "arithmetic" if self.arithmetic_us >= self.memory_us else "memory"


def estimate_ms(kernels: Iterable[Kernel], flops: Mapping[str, float], gpu: Gpu) -> float:
    """Return the milliseconds that an engine's kernels would take at a GPU's peaks.

    Arguments and errors are those of `estimate_kernels`.
    """
    return sum(estimate.total_us for estimate in estimate_kernels(kernels, flops, gpu)) / 1e3


def estimate_kernels(
    kernels: Iterable[Kernel], flops: Mapping[str, float], gpu: Gpu
) -> tuple[KernelEstimate, ...]:
    """Return each launched kernel's arithmetic, traffic and time at a GPU's peaks, in order.

    Args:
        kernels: of the engine, of known sizes.
        flops: of the graph it was built from, by node; see `count_flops`.
        gpu: what to estimate for.

    Raises:
        ValueError: if sizes are open, as with a dynamic batch, or the GPU lacks a datatype.
    """
    launched = [kernel for kernel in kernels if kernel.launches]
    shares = _share_flops(launched, flops)
    return tuple(
        _estimate_kernel(kernel, share, gpu) for kernel, share in zip(launched, shares, strict=True)
    )


def _share_flops(kernels: list[Kernel], flops: Mapping[str, float]) -> list[float]:
    """Return each kernel's arithmetic; a product that became several kernels is split evenly."""
    named = [
        [name for name in dict.fromkeys(kernel.nodes) if name in flops]
        if kernel.is_product or kernel.is_attention
        else []
        for kernel in kernels
    ]
    times = Counter(name for names in named for name in names)
    return [sum(flops[name] / times[name] for name in names) for names in named]


def _estimate_kernel(kernel: Kernel, flops: float, gpu: Gpu) -> KernelEstimate:
    if kernel.byte_count is None:
        raise ValueError(
            f"kernel '{kernel.name}' has open sizes, so its time cannot be estimated; build with a "
            "fixed --batch"
        )
    peak = gpu.find_peak(kernel.product_datatype)
    if flops and peak is None:
        datatype = kernel.product_datatype
        raise ValueError(f"{gpu.name} has no peak for {datatype}, in which '{kernel.name}' runs")
    return KernelEstimate(
        kernel,
        flops,
        kernel.byte_count,
        arithmetic_us=flops / peak / 1e6 if peak and flops else 0.0,
        memory_us=kernel.byte_count / gpu.bandwidth_gb_s / 1e3,
    )


def count_flops(onnx_path: str | Path) -> dict[str, float]:
    """Return the operations of each product of an ONNX graph by node, a multiply-add being two.

    Raises:
        ValueError: if the file is no ONNX model, or its sizes are open.
    """
    model = load_without_weights(onnx_path)
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return {
        node.name: _count_node(node, shapes, onnx_path)
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv")
    }


def _count_node(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], path: str | Path
) -> float:
    output, weight = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
    if not output or not weight or 0 in (*output, *weight):
        raise ValueError(
            f"'{path}': the sizes of '{node.name}' are open; build with a fixed --batch"
        )
    if node.op_type == "Conv":
        depth = prod(weight[1:])
    elif node.op_type == "MatMul":
        depth = weight[-2]
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        depth = weight[1] if transposed else weight[0]
    return 2.0 * prod(output) * depth
