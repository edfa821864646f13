"""Images to calibrate on: a user's, or land-cover training tiles.

Shapes: `B` images, `H, W` pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segvit.datasets.landcover import LandCover
from segvit.images import Size, find_images, read_image, resize_image


class CalibrationImages(NamedTuple):
    """uint8 images `(n, H, W, 3)` at the graph's size, and what they are."""

    images: NDArray[np.uint8]
    source: str


def load_calibration_images(
    folder: Path | None, size: Size, count: int, seed: int
) -> CalibrationImages:
    """Return up to `count` images, drawn at random, as the graph takes them.

    Args:
        folder: of images, which are resized; None takes tiles of land cover's training split.
        size: (height, width) of the graph's input.
        count: how many at most.
        seed: of the draw.

    Raises:
        ValueError: if the folder has no readable image.
        FileNotFoundError: if it, or the land-cover wheels, are missing.
    """
    if folder is None:
        images, _ = LandCover().sample_images("train", count, seed)
        resized = np.stack([resize_image(image, size) for image in images])
        return CalibrationImages(resized, f"{len(images)} land-cover training tiles")
    paths = find_images([folder])
    chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:count])
    resized = np.stack([resize_image(read_image(paths[index]), size) for index in chosen])
    return CalibrationImages(resized, f"{len(resized)} images of '{folder}'")
