"""The images that artifacts are compared on: all sides get the very same pixels.

Shapes: `H, W` pixels of an engine's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from export.manifest import Manifest
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.folder import FolderDataset, open_folder
from segvit.datasets.landcover import LandCover
from segvit.images import Size, find_images, read_image, resize_image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ParityImages:
    """`read(index)` gives an image `(H, W, 3)` and its true labels `(H, W)`, or None for those.

    Images of another size are resized linearly, masks to the nearest.
    """

    source: str
    has_truth: bool
    count: int
    read: Callable[[int], tuple[Pixels, Pixels | None]]


@dataclass(frozen=True)
class FolderChoice:
    """The user's folders, as `segvit.evaluate` takes them; no masks means no truth."""

    images: Path
    masks: Path | None = None
    classes: Path | None = None
    reduce_zero_label: bool = False


def open_landcover(manifest: Manifest, split: str, count: int, seed: int) -> ParityImages:
    """Return tiles of the land-cover map; only models of its classes have truth there.

    Raises:
        ValueError: if the split has fewer tiles.
        FileNotFoundError: if the land-cover wheels are missing.
    """
    images, labels = LandCover().sample_images(split, count, seed)
    has_truth = manifest.classes == tuple(name for name, _ in LANDCOVER_CLASSES)
    size = _input_size(manifest)

    def read(index: int) -> tuple[Pixels, Pixels | None]:
        truth = _resize_mask(labels[index], size) if has_truth else None
        return resize_image(images[index], size), truth

    source = f"{count} land-cover {split} tiles, seed {seed}"
    return ParityImages(source, has_truth, count, read)


def open_chosen(manifest: Manifest, choice: FolderChoice, count: int, seed: int) -> ParityImages:
    """Return at most `count` images of a folder, drawn with the seed, with masks where given.

    Raises:
        FileNotFoundError: if a folder or file is missing.
        ValueError: if there are no images, one has no mask, or the classes are not the model's.
    """
    data: FolderDataset | None = None
    if choice.masks is not None and choice.classes is not None:
        data = open_folder(choice.images, choice.masks, choice.classes, choice.reduce_zero_label)
        if len(data.class_names) != len(manifest.classes):
            raise ValueError(
                f"'{choice.classes}' names {len(data.class_names)} classes, model "
                f"'{manifest.model.name}' has {len(manifest.classes)}; give masks of its classes, "
                "or leave out --masks to compare with the reference alone"
            )
    paths = [s.image for s in data.samples] if data else find_images([choice.images])
    chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:count].tolist())
    size = _input_size(manifest)

    def read(index: int) -> tuple[Pixels, Pixels | None]:
        if data is None:
            return resize_image(read_image(paths[chosen[index]]), size), None
        image, mask = data.read(data.samples[chosen[index]])
        return resize_image(image, size), _resize_mask(mask, size)

    source = f"{len(chosen)} images of '{choice.images}', seed {seed}"
    return ParityImages(source, data is not None, len(chosen), read)


def _resize_mask(mask: Pixels, size: Size) -> Pixels:
    resized = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def _input_size(manifest: Manifest) -> Size:
    height, width = (int(side) for side in manifest.input.shape[1:3])
    return height, width
