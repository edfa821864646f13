"""Training batches of land cover: augmented tiles, drawn as a pure function of seed and step.

Shapes: `B` batch.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segvit.datasets.landcover import NUM_CLASSES, TILE, Block, Image, LandCover, read_tile

# Chance of drawing a tile around a pixel of each class: most of the map is water, and the rare
# classes would hardly be seen.
CLASS_SHARES = (0.08, 0.17, 0.18, 0.18, 0.17, 0.13, 0.09)
CROP_SIDES = (48, 96)
BRIGHTNESS = 0.08
# 0.06 of the input's standard deviation (127.5); stronger colour changes hurt, since colour is
# half of what tells the classes apart.
CHANNEL_SHIFT = 0.06 * 127.5


class TrainingTiles:
    """Draws augmented tiles from the training blocks of a map."""

    def __init__(self, data: LandCover, seed: int) -> None:
        self.data, self.seed = data, seed
        self.blocks = data.blocks("train")
        self._pixels = [self._find_pixels(label) for label in range(NUM_CLASSES)]

    def _find_pixels(self, label: int) -> NDArray[np.int32]:
        """Return (block, row, column) of every training pixel of a class, `(n, 3)`."""
        found = []
        for index, block in enumerate(self.blocks):
            rows, columns = np.nonzero(self.data.crop(block)[1] == label)
            found.append(np.stack([np.full_like(rows, index), rows, columns], axis=1))
        return np.concatenate(found).astype(np.int32)

    def batch(self, step: int, indices: range) -> tuple[Image, Image]:
        """Return the samples `indices` of a step's global batch.

        Returns:
            uint8 images `(B, 256, 256, 3)`, uint8 labels `(B, 64, 64)` at source resolution.
        """
        samples = [self._draw(np.random.default_rng([self.seed, step, i])) for i in indices]
        images, labels = zip(*samples, strict=True)
        return np.stack(images), np.stack(labels)

    def _draw(self, rng: Generator) -> tuple[Image, Image]:
        label = rng.choice(NUM_CLASSES, p=CLASS_SHARES)
        index, row, column = self._pixels[label][rng.integers(len(self._pixels[label]))]
        block = self.blocks[index]
        side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1] + 1))
        top = _place(rng, int(row), side, block.height)
        left = _place(rng, int(column), side, block.width)
        area = Block(block.top + top, block.left + left, side, side)
        image, labels = _turn(rng, *_scale(*self.data.crop(area)))
        return read_tile(_recolour(rng, image)), labels


def _scale(image: Image, labels: Image) -> tuple[Image, Image]:
    """Return a square crop as a 64-px tile."""
    method = cv2.INTER_AREA if len(image) > TILE else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (TILE, TILE), interpolation=method)
    nearest = cv2.resize(labels, (TILE, TILE), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, np.uint8), np.asarray(nearest, np.uint8)


def _place(rng: Generator, position: int, side: int, length: int) -> int:
    """Return where a crop that holds `position` begins, inside a block of this length."""
    first, last = max(0, position - side + 1), min(position, length - side)
    return int(rng.integers(first, last + 1))


def _turn(rng: Generator, image: Image, labels: Image) -> tuple[Image, Image]:
    """Return one of the eight flips and rotations of both."""
    if rng.random() < 0.5:
        image, labels = image.swapaxes(0, 1), labels.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2))
    return (
        np.ascontiguousarray(image[rows, columns]),
        np.ascontiguousarray(labels[rows, columns]),
    )


def _recolour(rng: Generator, image: Image) -> Image:
    factor = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    shift = rng.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT, size=3)
    return np.clip(image * factor + shift + 0.5, 0, 255).astype(np.uint8)
