"""How far pixels lie from where the reference's classes meet.

Shapes: `H, W` pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.images import Labels

# Within so many pixels of a boundary; 1 is the pixels on either side of it.
WITHIN_PIXELS = (1, 2, 4, 8)


def measure_boundary_distance(labels: Labels) -> NDArray[np.float32]:
    """Return each pixel's distance to the nearest class boundary, float32 `(H, W)`.

    A pixel with a neighbour of another class, above, below or beside it, is at 1; others are at 1
    plus the Euclidean distance to the nearest such pixel. Without a boundary all are at infinity.
    """
    inside = np.ones(labels.shape, np.uint8)  # 0 on either side of a boundary
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    inside[:, 1:][across] = inside[:, :-1][across] = 0
    inside[1:][down] = inside[:-1][down] = 0
    if inside.all():
        return np.full(labels.shape, np.inf, np.float32)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance + 1, np.float32)


def count_within(distance: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many of these distances lie within each of `WITHIN_PIXELS`."""
    return np.array([(distance <= limit).sum() for limit in WITHIN_PIXELS], np.int64)
