"""Real images to verify a build on, with ground truth where there is some.

Shapes: `n` images, `H, W` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.config import LANDCOVER_CLASSES, SegViTConfig
from segvit.datasets.landcover import LandCover
from segvit.images import find_images, read_image
from segvit.model import Size


@dataclass(frozen=True)
class CheckImages:
    """uint8 images `(n, H, W, 3)` and labels `(n, H, W)`, or None where nobody knows them."""

    images: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    source: str


def load_check_images(
    folder: Path | None,
    config: SegViTConfig,
    size: Size,
    count: int,
    seed: int,
    split: str = "test",
) -> CheckImages:
    """Return images of the engine's size.

    Args:
        folder: the user's images, resized; None takes land-cover tiles, which carry labels for
            the land-cover classes and are plain satellite images to any other model.
        split: of the land-cover tiles.

    Raises:
        ValueError: if the folder has no readable image.
        FileNotFoundError: if the land-cover wheels are missing.
    """
    if folder is not None:
        paths = find_images([folder])
        chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
        resized = [_resize(read_image(paths[index]), size) for index in sorted(chosen)]
        return CheckImages(np.stack(resized), None, f"{len(resized)} images of '{folder}'")
    images, labels = LandCover().sample_images(split, count, seed)
    is_landcover = config.class_names == tuple(name for name, _ in LANDCOVER_CLASSES)
    if (images.shape[1], images.shape[2]) != size:
        images = np.stack([_resize(image, size) for image in images])
        labels = np.stack([_resize(label, size, cv2.INTER_NEAREST) for label in labels])
    source = f"{len(images)} land-cover {split} tiles"
    return CheckImages(images, labels if is_landcover else None, source)


def _resize(
    image: NDArray[np.uint8], size: Size, interpolation: int = cv2.INTER_LINEAR
) -> NDArray[np.uint8]:
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation).astype(np.uint8)
