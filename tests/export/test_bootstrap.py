"""Bootstrap intervals: properties that hold of any counts, and how often they hold the truth."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from export.bootstrap import FEWEST_IMAGES, RESAMPLES, draw_weights, find_interval

COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12)


def _bound(counts: list[tuple[int, int]], seed: int = 0) -> tuple[float, float] | None:
    """Return the interval of the share that the first counts have of both."""
    pairs = np.array(counts, float)
    drawn = draw_weights(len(pairs), 200, seed) @ pairs
    with np.errstate(invalid="ignore"):
        return find_interval(drawn[:, 0] / drawn.sum(axis=1))


def test_resamples_draw_as_many_images() -> None:
    assert (draw_weights(7, 50, 3).sum(axis=1) == 7).all()
    assert draw_weights(1, 50, 3).shape == (0, 1)


def test_interval_leaves_out_resamples_without_the_class() -> None:
    assert find_interval(np.array([np.nan, 1.0, 1.0, np.nan])) == (1.0, 1.0)
    assert find_interval(np.array([np.nan])) is None


@given(COUNTS)
def test_an_interval_lies_within_the_images_own_shares(counts: list[tuple[int, int]]) -> None:
    shares = [hits / (hits + misses) for hits, misses in counts if hits + misses]
    interval = _bound(counts)
    if not shares:
        assert interval is None
        return
    assert interval is not None
    low, high = interval
    assert min(shares) - 1e-12 <= low <= high <= max(shares) + 1e-12


@given(COUNTS, st.integers(0, 9))
def test_the_same_seed_gives_the_same_interval(counts: list[tuple[int, int]], seed: int) -> None:
    assert _bound(counts, seed) == _bound(counts, seed)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 12))
def test_equal_images_leave_no_doubt(hits: int, misses: int, count: int) -> None:
    low, high = _bound([(hits, misses)] * count) or (0.0, 0.0)
    assert low == high == hits / (hits + misses)


def test_intervals_of_the_fewest_images_hold_the_mean_about_as_often_as_said() -> None:
    values = np.random.default_rng(0).normal(size=(400, FEWEST_IMAGES))
    weights = draw_weights(FEWEST_IMAGES, RESAMPLES, 0) / FEWEST_IMAGES
    bounds = np.percentile(values @ weights.T, (2.5, 97.5), axis=1)
    assert 0.85 < ((bounds[0] <= 0) & (bounds[1] >= 0)).mean() < 0.93
