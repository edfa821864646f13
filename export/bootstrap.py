"""Paired bootstrap intervals: the images are the sample, drawn anew with replacement.

Reference and candidate get the same draws, and every figure is computed again from integer counts.
Source: Bootstrap Methods: Another Look at the Jackknife (doi:10.1214/aos/1176344552).

Shapes: `n` images, `R` resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.parity_record import Interval

Floats = NDArray[np.float64]
RESAMPLES = 1000
# Percentile intervals of 95 % hold the mean of eight draws from a normal distribution in about 89 %
# of cases, that of four in 80 %, and the lower end for two is the worse image itself: from eight
# images on an interval says more than its middle does.
FEWEST_IMAGES = 8
_COVERED = (2.5, 97.5)  # percentiles: intervals of 95 %


def draw_weights(count: int, resamples: int, seed: int) -> Floats:
    """Return how often each resample draws each image, `(R, n)`; none of fewer than two images."""
    if count < 2:
        return np.empty((0, count))
    drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples)
    return drawn.astype(np.float64)


def find_interval(values: Floats) -> Interval | None:
    """Return the 95 % percentile interval of resamples `(R,)`; those that are NaN do not count.

    None where no resample has a value.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.percentile(known, _COVERED)
    return float(low), float(high)
