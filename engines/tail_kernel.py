"""The model's tail as one Triton kernel: upsample, sigmoid, class mix and argmax, labels out.

Neither upsampled masks nor scores reach memory: a program makes both for one block of pixels, a
block of queries at a time, in registers. Experimental: it is compiled ahead of time for every
architecture and checked with Triton's interpreter; it has not been timed.

Shapes: `B` batch, `Q` queries, `K` classes, `K+` padded classes, `h, w` mask grid, `H, W` pixels.
"""

# Triton has no types, and reads annotations as part of the kernel.
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: N803 - constants are upper case in Triton

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tail_kernel(
    classes_ptr,
    masks_ptr,
    labels_ptr,
    QUERIES: tl.constexpr,
    CLASSES: tl.constexpr,
    PADDED_CLASSES: tl.constexpr,
    GRID_HEIGHT: tl.constexpr,
    GRID_WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """Write the labels of `BLOCK_PIXELS` pixels of one image; the grid is (blocks, B).

    Args:
        classes_ptr: class probabilities `(B, Q, K+)`.
        masks_ptr: mask logits `(B, Q, h, w)`.
        labels_ptr: class ids `(B, H, W)`, of any integer type that holds them.
    """
    image = tl.program_id(1).to(tl.int64)
    classes_ptr += image * (QUERIES * PADDED_CLASSES)
    masks_ptr += image * (QUERIES * GRID_HEIGHT * GRID_WIDTH)
    labels_ptr += image * (HEIGHT * WIDTH)
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    top, bottom, down = find_neighbours(pixels // WIDTH, GRID_HEIGHT, HEIGHT)
    left, right, across = find_neighbours(pixels % WIDTH, GRID_WIDTH, WIDTH)
    best = tl.full([BLOCK_PIXELS], float("-inf"), tl.float32)
    labels = tl.zeros([BLOCK_PIXELS], tl.int32)
    for first_class in range(0, CLASSES, BLOCK_CLASSES):
        ids = first_class + tl.arange(0, BLOCK_CLASSES)
        scores = tl.zeros([BLOCK_PIXELS, BLOCK_CLASSES], tl.float32)
        for first_query in range(0, QUERIES, BLOCK_QUERIES):
            queries = first_query + tl.arange(0, BLOCK_QUERIES)
            used = (queries < QUERIES)[:, None]
            # Pixels last: neighbouring threads then read the same few logits of one mask.
            rows = masks_ptr + (queries * (GRID_HEIGHT * GRID_WIDTH))[:, None]
            upper = blend(rows, top * GRID_WIDTH, left, right, across, used)
            lower = blend(rows, bottom * GRID_WIDTH, left, right, across, used)
            logits = upper * (1 - down) + lower * down  # (BLOCK_QUERIES, BLOCK_PIXELS)
            mixing = tl.load(
                classes_ptr + queries[:, None] * PADDED_CLASSES + ids[None, :],
                mask=used & (ids < CLASSES)[None, :],
                other=0.0,
            )
            # Without "ieee", float32 would be rounded to TF32.
            masks = tl.trans(tl.sigmoid(logits).to(mixing.dtype))
            scores = tl.dot(masks, mixing, scores, input_precision="ieee")
        # As in PyTorch and ONNX Runtime the first NaN wins, and of equal scores the first.
        scores = tl.where(scores == scores, scores, float("inf"))
        scores = tl.where((ids < CLASSES)[None, :], scores, float("-inf"))
        highest, index = tl.max(scores, axis=1, return_indices=True)
        labels = tl.where(highest > best, first_class + index, labels)
        best = tl.maximum(highest, best)
    tl.store(
        labels_ptr + pixels,
        labels.to(labels_ptr.dtype.element_ty),
        mask=pixels < HEIGHT * WIDTH,
    )


@triton.jit
def find_neighbours(pixels, grid: tl.constexpr, size: tl.constexpr):
    """Return the grid lines before and after pixels, and the weight of the one after.

    Half-pixel centres: `(pixel + 1/2) grid / size - 1/2`, kept in integers so that no size is
    subject to rounding. Pixels past the edge, of the last block, get lines inside too.
    """
    doubled = tl.maximum((2 * pixels + 1) * grid - size, 0)  # times 2 size
    before = tl.minimum(doubled // (2 * size), grid - 1)
    after = tl.minimum(before + 1, grid - 1)
    return before, after, (doubled % (2 * size)).to(tl.float32) / (2 * size)


@triton.jit
def blend(masks, row, left, right, across, used):
    """Return float32 logits `(BLOCK_QUERIES, BLOCK_PIXELS)` between two columns of a grid row."""
    first = tl.load(masks + (row + left), mask=used, other=0.0).to(tl.float32)
    second = tl.load(masks + (row + right), mask=used, other=0.0).to(tl.float32)
    return first * (1 - across) + second * across
