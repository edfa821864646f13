"""The published training transforms, in OpenCV's arithmetic; every draw comes from one generator.

Shapes: `B` batch, `H, W` pixels. Images are RGB uint8 `(H, W, 3)`, masks uint8 `(H, W)` of class
ids with 255 for ignored pixels.
Source: the training pipelines of SegViT section 4 (arXiv 2210.05844), which are mmsegmentation's.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from segvit.images import Image, Size, resize_image
from segvit.metrics import IGNORE_LABEL

Mask = NDArray[np.uint8]
Table = NDArray[np.uint8]

RATIOS = (0.5, 2.0)
MOST_OF_ONE_CLASS = 0.75
CROP_TRIES = 10
BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18


class Crop(NamedTuple):
    """A padded image, its mask, and the (height, width) beyond which is padding."""

    image: Image
    mask: Mask
    size: Size


def augment(rng: Generator, image: Image, mask: Mask, crop: int, resize: Size) -> Crop:
    """Return a training crop `(crop, crop)`: resized, cut, flipped, its colours distorted, padded.

    Args:
        rng: where every draw comes from.
        image: any size.
        mask: of the same size.
        crop: the side of the result.
        resize: the longest (long, short) sides of the image, both times 0.5 to 2.
    """
    scale = float(rng.uniform(*RATIOS))
    image, mask = resize_pair(image, mask, fit_size(mask.shape, resize, scale))
    image, mask = crop_randomly(rng, image, mask, (crop, crop))
    if rng.random() < 0.5:
        image, mask = np.asarray(cv2.flip(image, 1)), np.asarray(cv2.flip(mask, 1))
    return pad_pair(distort_colours(rng, image), mask, (crop, crop))


def fit_size(size: Size, sides: Size, scale: float) -> Size:
    """Return the (height, width) of an image resized to fit, its ratio kept; sizes round half up.

    Args:
        size: (height, width) of the image.
        sides: its longest (long, short) sides.
        scale: that multiplies both; they are then rounded down.
    """
    longest, shortest = (int(side * scale) for side in sides)
    factor = min(longest / max(size), shortest / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resize_pair(image: Image, mask: Mask, size: Size) -> tuple[Image, Mask]:
    """Return image and mask at `size`: linear, and the nearest pixel."""
    # The published pipeline's nearest, which takes other pixels than `images.resize_labels`.
    nearest = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return resize_image(image, size), np.asarray(nearest, np.uint8)


def crop_randomly(rng: Generator, image: Image, mask: Mask, size: Size) -> tuple[Image, Mask]:
    """Return a random window, or all of what is smaller.

    Up to ten windows are drawn, until one has two classes at least and less than 75 % of one.
    """
    for _ in range(CROP_TRIES):
        top, left = (
            int(rng.integers(max(have - need, 0) + 1))
            for have, need in zip(mask.shape, size, strict=True)
        )
        window = np.s_[top : top + size[0], left : left + size[1]]
        counts = np.ravel(cv2.calcHist([mask[window]], [0], None, [256], [0, 256]))[:IGNORE_LABEL]
        if (counts > 0).sum() > 1 and counts.max() < MOST_OF_ONE_CLASS * counts.sum():
            break
    return image[window], mask[window]


def distort_colours(rng: Generator, image: Image) -> Image:
    """Return the image with brightness, contrast, saturation and hue changed, each half the time.

    Contrast comes before or after the other colours, by chance.
    """
    if rng.random() < 0.5:
        image = _look_up(image, _scaled(1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image = _look_up(image, _scaled(rng.uniform(*CONTRAST)))
    if rng.random() < 0.5:
        image = _change_hsv(image, 1, _scaled(rng.uniform(*SATURATION)))
    if rng.random() < 0.5:
        hues = (np.arange(256) + rng.integers(-HUE, HUE)) % 180
        image = _change_hsv(image, 0, hues.astype(np.uint8))
    if not contrast_first and rng.random() < 0.5:
        image = _look_up(image, _scaled(rng.uniform(*CONTRAST)))
    return image


def pad_pair(image: Image, mask: Mask, size: Size) -> Crop:
    """Return both padded at the bottom and on the right: 0 and ignored.

    The published 0 is one after normalisation, which uint8 cannot hold: see `blank_padding`.
    """
    padded = np.zeros((*size, 3), np.uint8)
    ignored = np.full(size, IGNORE_LABEL, np.uint8)
    area = np.s_[: mask.shape[0], : mask.shape[1]]
    padded[area], ignored[area] = image, mask
    return Crop(padded, ignored, (mask.shape[0], mask.shape[1]))


def blank_padding(pixels: Tensor, sizes: Tensor) -> Tensor:
    """Return normalised images `(B, 3, H, W)` with 0 beyond their (height, width), `(B, 2)`."""
    rows, columns = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
    inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]  # (B, H, W)
    return pixels * inside[:, None]


def _scaled(factor: float, offset: float = 0.0) -> Table:
    """Return what each of 256 values becomes, `(256,)`."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _look_up(image: Image, table: Table) -> Image:
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _change_hsv(image: Image, channel: int, table: Table) -> Image:
    """Return the image with hue (0), saturation (1) or value (2) looked up."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., channel] = cv2.LUT(np.ascontiguousarray(hsv[..., channel]), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
