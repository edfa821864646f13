"""Masks as COCO stores them: run lengths in text.

`H, W` pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def decode_run_lengths(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask, `(H, W)`, that a text of run lengths describes.

    Runs go down the columns and take turns, the first one outside. A run is a signed number in
    groups of 5 bits, the lowest first, a character each: 48 and the group, and 32 more where
    another follows. From the fourth on, a number is the difference to the one two before.

    Args:
        text: the characters.
        size: (height, width) of the mask.

    Raises:
        ValueError: if the text is malformed, or its runs do not sum to the size.

    Source: COCO's compressed run lengths, cocoapi `common/maskApi.c`, rleFrString.
    """
    groups = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not groups.size or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("run lengths are cut off or hold other characters")
    ends = np.flatnonzero(groups < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError("a run length has more than 60 bits")
    places = np.arange(groups.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * places), starts)
    numbers -= np.where(groups[ends] & 16, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0 or numbers.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths sum to {numbers.sum()} pixels, expected {size[0] * size[1]}")
    inside = np.arange(numbers.size) % 2 == 1
    return np.repeat(inside, numbers).reshape(size[::-1]).T
