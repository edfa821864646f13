"""The fused tail kernel for one model: its shape, compiled ahead of time or launched.

Needs the extra `fused-tail` (Triton) and no torch; compiling needs no GPU. Experimental: never
timed.

Shapes: `B` batch, `Q` queries, `K` classes, `K+` padded classes, `h, w` mask grid, `H, W` pixels.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

# As Triton spells them.
Datatype = Literal["fp32", "fp16", "bf16"]
LabelType = Literal["u8", "i32"]
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "u8": 1, "i32": 4}
_LARGEST_INDEX = 2**31 - 1


class Tensor(Protocol):
    """What is needed of a tensor; PyTorch's fit."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes, outermost first."""

    def is_contiguous(self) -> bool:
        """Return whether elements lie in memory as in the shape."""

    def element_size(self) -> int:
        """Return the bytes of an element."""

    def data_ptr(self) -> int:
        """Return where the first element lies; Triton asks for it."""


@dataclass(frozen=True)
class TailShape:
    """What one kernel is compiled for; the batch is not part of it.

    Raises:
        ValueError: if a size is not positive, classes exceed their padding, or an image's indices
            exceed 32 bits.
    """

    queries: int
    classes: int
    padded_classes: int
    grid: tuple[int, int]  # (h, w)
    size: tuple[int, int]  # (H, W)

    def __post_init__(self) -> None:
        sizes = (self.queries, self.classes, *self.grid, *self.size)
        if min(sizes) < 1:
            raise ValueError(f"fused tail: expected sizes of at least 1, got {self}")
        if self.padded_classes < self.classes:
            raise ValueError(
                f"fused tail: {self.classes} classes do not fit {self.padded_classes} columns of "
                "probabilities; padded_classes counts the columns"
            )
        axes = (2 * grid * size for grid, size in zip(self.grid, self.size, strict=True))
        per_image = (self.queries * self.padded_classes, self.queries * prod(self.grid))
        largest = max(*axes, *per_image, prod(self.size) + 1024)
        if largest > _LARGEST_INDEX:
            raise ValueError(
                f"fused tail: {self} needs indices up to {largest}, the kernel's end at "
                f"{_LARGEST_INDEX}; use the plain tail"
            )

    @property
    def label_type(self) -> LabelType:
        """As in the graph contract."""
        return "u8" if self.classes <= 256 else "i32"


@dataclass(frozen=True)
class TailBlocks:
    """What one program works on at a time; powers of two."""

    pixels: int
    queries: int
    classes: int
    warps: int


@dataclass(frozen=True)
class CompiledTail:
    """A kernel for one architecture. Registers and spills are of one thread.

    `ptx` and `cubin` take two pointers of Triton's own behind the three of the kernel; neither
    is read.
    """

    name: str
    compute_capability: str
    blocks: TailBlocks
    ptx: str
    cubin: bytes
    registers: int
    shared_bytes: int
    spilled_bytes: int


def choose_blocks(shape: TailShape, datatype: Datatype) -> TailBlocks:
    """Return the largest blocks that no architecture spills registers for.

    Up to 256 classes make one block, so that every sigmoid is computed once.
    """
    classes = min(256, max(16, 1 << (shape.classes - 1).bit_length()))
    return TailBlocks(64, 16 if datatype == "fp32" else 32, classes, 8)


def compile_tail(
    shape: TailShape,
    datatype: Datatype,
    compute_capability: str,
    blocks: TailBlocks | None = None,
    label_type: LabelType | None = None,
) -> CompiledTail:
    """Return the kernel for `compute_capability`, such as `SM89`.

    Args:
        shape: of the model's tail.
        datatype: of class probabilities and mask logits; sums are float32.
        compute_capability: of the GPU that it is for; none need be here.
        blocks: `choose_blocks` by default.
        label_type: the graph contract's by default.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if the capability is none from SM80.
        RuntimeError: if Triton cannot compile for it, or would need scratch memory.
    """
    triton = import_triton()
    match = re.fullmatch(r"SM(\d+)", compute_capability)
    if match is None or int(match[1]) < 80:
        raise ValueError(
            f"fused tail: expected a compute capability from SM80, got '{compute_capability}'"
        )
    blocks = blocks or choose_blocks(shape, datatype)
    tensors = ("classes_ptr", "masks_ptr", "labels_ptr")
    types = (f"*{datatype}", f"*{datatype}", f"*{label_type or shape.label_type}")
    constants = _constants(shape, blocks)
    source = triton.compiler.ASTSource(
        fn=importlib.import_module("engines.tail_kernel").tail_kernel,
        signature={
            **dict(zip(tensors, types, strict=True)),
            **dict.fromkeys(constants, "constexpr"),
        },
        constexprs=constants,
        # Every allocator aligns to 16 bytes and more; rows of padded classes keep it.
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(tensors))},
    )
    target = importlib.import_module("triton.backends.compiler").GPUTarget
    kernel = triton.compile(
        source, target=target("cuda", int(match[1]), 32), options=_options(blocks)
    )
    if kernel.metadata.global_scratch_size or kernel.metadata.profile_scratch_size:
        raise RuntimeError(
            f"fused tail for {compute_capability}: Triton {triton.__version__} wants scratch "
            "memory, which nobody would give it; use smaller blocks or another version"
        )
    registers, spilled = _read_resources(triton, kernel.asm["cubin"])
    return CompiledTail(
        name=kernel.metadata.name,
        compute_capability=compute_capability,
        blocks=blocks,
        ptx=kernel.asm["ptx"],
        cubin=kernel.asm["cubin"],
        registers=registers,
        shared_bytes=kernel.metadata.shared,
        spilled_bytes=spilled,
    )


def run_tail(
    classes: Tensor,
    masks: Tensor,
    labels: Tensor,
    shape: TailShape,
    blocks: TailBlocks | None = None,
) -> None:
    """Fill `labels` on the GPU that holds the tensors, or by interpreter (`TRITON_INTERPRET=1`).

    Args:
        classes: class probabilities `(B, Q, K+)`, float32, float16 or bfloat16.
        masks: mask logits `(B, Q, h w)` or `(B, Q, h, w)`, finite, of the same type.
        labels: class ids `(B, H, W)`, of an integer type that holds K.
        shape: of the model's tail.
        blocks: `choose_blocks` by default.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if a tensor does not fit the shape or the classes, or is not contiguous.
    """
    import_triton()
    batch = labels.shape[0]
    for name, tensor, expected in (
        ("classes", classes, (batch, shape.queries, shape.padded_classes)),
        ("masks", masks, (batch, shape.queries, prod(shape.grid))),
        ("labels", labels, (batch, *shape.size)),
    ):
        found = tuple(tensor.shape)
        flat = (*found[:2], prod(found[2:])) if name == "masks" else found
        if flat != expected or not tensor.is_contiguous():
            raise ValueError(
                f"fused tail: expected contiguous {name} {expected}, got {found}"
                f"{'' if tensor.is_contiguous() else ', not contiguous; call .contiguous()'}"
            )
    if labels.element_size() < ITEM_BYTES[shape.label_type]:
        raise ValueError(
            f"fused tail: labels of one byte do not hold {shape.classes} classes; use int32"
        )
    if not batch:
        return
    datatype: Datatype = "fp32" if masks.element_size() == 4 else "fp16"
    blocks = blocks or choose_blocks(shape, datatype)
    kernel = importlib.import_module("engines.tail_kernel").tail_kernel
    programs = (count_blocks(shape, blocks), batch)
    kernel[programs](classes, masks, labels, **_constants(shape, blocks), **_options(blocks))


def count_blocks(shape: TailShape, blocks: TailBlocks) -> int:
    """Return the programs that one image takes."""
    return -(-prod(shape.size) // blocks.pixels)


def count_fused_bytes(shape: TailShape, datatype: Datatype, batch: int) -> int:
    """Return what the kernel must read and write; it rereads its small inputs from the caches."""
    inputs = shape.queries * (shape.padded_classes + prod(shape.grid)) * ITEM_BYTES[datatype]
    return batch * (inputs + prod(shape.size) * ITEM_BYTES[shape.label_type])


def count_plain_bytes(shape: TailShape, datatype: Datatype, batch: int) -> int:
    """Return what three kernels read and write: resize with sigmoid, class mix, argmax.

    Upsampled masks and scores are each written and read once; the rest is as in the fused kernel.
    """
    between = prod(shape.size) * (shape.queries + shape.padded_classes) * ITEM_BYTES[datatype]
    return batch * 2 * between + count_fused_bytes(shape, datatype, batch)


def import_triton() -> ModuleType:
    """Return Triton.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("triton")
    except ImportError as error:
        raise ImportError(
            "triton is not installed; install it with: pip install 'segvit-deploy[fused-tail]'"
        ) from error


def _constants(shape: TailShape, blocks: TailBlocks) -> dict[str, int]:
    return {
        "QUERIES": shape.queries,
        "CLASSES": shape.classes,
        "PADDED_CLASSES": shape.padded_classes,
        "GRID_HEIGHT": shape.grid[0],
        "GRID_WIDTH": shape.grid[1],
        "HEIGHT": shape.size[0],
        "WIDTH": shape.size[1],
        "BLOCK_PIXELS": blocks.pixels,
        "BLOCK_QUERIES": blocks.queries,
        "BLOCK_CLASSES": blocks.classes,
    }


def _options(blocks: TailBlocks) -> dict[str, int | bool]:
    # One stage: prefetching the next block of queries spills registers.
    return {"num_warps": blocks.warps, "num_stages": 1, "enable_fp_fusion": True}


def _read_resources(triton: ModuleType, cubin: bytes) -> tuple[int, int]:
    """Return registers and spilled bytes of a thread, read from the binary itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tail.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    if match is None:
        raise RuntimeError(
            f"fused tail: {command[0]} does not tell the kernel's registers: "
            f"{(done.stderr or done.stdout).strip()[-200:]}"
        )
    return int(match[1]), int(match[2])
