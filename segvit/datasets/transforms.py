"""The published training transforms, in OpenCV's arithmetic; every draw comes from one generator.

Shapes: `H, W` pixels. Images are RGB uint8 `(H, W, 3)`, masks uint8 `(H, W)` of class ids with 255
for ignored pixels.
Source: the training pipelines of SegViT section 4 (arXiv 2210.05844), which are mmsegmentation's.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segvit.images import Image, Size, resize_image
from segvit.inference import rescale_size
from segvit.metrics import IGNORE_LABEL

Mask = NDArray[np.uint8]

RATIOS = (0.5, 2.0)
MOST_OF_ONE_CLASS = 0.75
CROP_TRIES = 10
BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18


def augment(
    rng: Generator, image: Image, mask: Mask, crop: int, fill: Sequence[float]
) -> tuple[Image, Mask]:
    """Return a training crop `(crop, crop)`: resized, cut, flipped, its colours distorted.

    Args:
        rng: where every draw comes from.
        image: any size.
        mask: of the same size.
        crop: the side of the result; an image's short side is it times 0.5 to 2.
        fill: the pixel that pads what is too small, normalised to 0; rounded. Its mask is ignored.
    """
    scale = float(rng.uniform(*RATIOS))
    image, mask = resize_pair(image, mask, rescale_size(mask.shape, crop, scale=scale))
    image, mask = crop_randomly(rng, image, mask, (crop, crop))
    if rng.random() < 0.5:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return pad_pair(distort_colours(rng, image), mask, (crop, crop), fill)


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
        counts = np.bincount(mask[window].reshape(-1), minlength=256)[:IGNORE_LABEL]
        if (counts > 0).sum() > 1 and counts.max() < MOST_OF_ONE_CLASS * counts.sum():
            break
    return image[window], mask[window]


def distort_colours(rng: Generator, image: Image) -> Image:
    """Return the image with brightness, contrast, saturation and hue changed, each half the time.

    Contrast comes before or after the other colours, by chance.
    """
    if rng.random() < 0.5:
        image = _scale(image, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image = _scale(image, rng.uniform(*CONTRAST))
    if rng.random() < 0.5:
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8)
        hsv[..., 1] = _scale(hsv[..., 1], rng.uniform(*SATURATION))
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    if rng.random() < 0.5:
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8)
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + rng.integers(-HUE, HUE)) % 180
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    if not contrast_first and rng.random() < 0.5:
        image = _scale(image, rng.uniform(*CONTRAST))
    return image


def pad_pair(image: Image, mask: Mask, size: Size, fill: Sequence[float]) -> tuple[Image, Mask]:
    """Return both padded at the bottom and on the right: `fill`, and ignored."""
    padded = np.empty((*size, 3), np.uint8)
    padded[:] = np.asarray(fill).round()
    ignored = np.full(size, IGNORE_LABEL, np.uint8)
    area = np.s_[: mask.shape[0], : mask.shape[1]]
    padded[area], ignored[area] = image, mask
    return padded, ignored


def _scale(values: NDArray[np.uint8], factor: float, offset: float = 0.0) -> NDArray[np.uint8]:
    scaled = values * np.float32(factor) + np.float32(offset)
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)
