"""Ratios and their intervals on series whose answers are known."""

import numpy as np
import pytest

from benchmarks.intervals import RatioInterval, compare_paired


def test_a_ratio_without_noise() -> None:
    base = list(np.linspace(5, 50, 40))
    found = compare_paired([value * 1.25 for value in base], base)
    assert (found.ratio, found.low, found.high) == pytest.approx((1.25, 1.25, 1.25))
    assert found.rounds == 40
    assert found.differs


def test_pairs_cancel_what_slows_whole_rounds_down() -> None:
    rng = np.random.default_rng(0)
    weather = rng.uniform(1, 4, 100)
    noise = rng.normal(1, 0.01, (2, 100))
    found = compare_paired(list(9.5 * weather * noise[0]), list(10 * weather * noise[1]))
    assert found.low < 0.95 < found.high
    assert found.high - found.low < 0.02
    assert found.differs


def test_the_interval_of_a_median_against_order_statistics() -> None:
    """For 99 values the exact 95 % interval of a median lies between the 40th and the 60th.

    Binomial(99, 1/2) is at most 39 with probability 0.027, so both sides leave out 0.054.
    """
    values = list(np.random.default_rng(3).permutation(np.arange(1.0, 100.0)))
    found = compare_paired(values, [1.0] * 99, resamples=4000)
    assert found.ratio == pytest.approx(50)
    assert found.autocorrelation < 0.1
    assert found.low == pytest.approx(40, abs=1)
    assert found.high == pytest.approx(60, abs=1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        ratios = rng.lognormal(np.log(0.8), 0.1, 40)
        found = compare_paired(list(ratios), [1.0] * 40, resamples=400)
        held += found.low <= 0.8 <= found.high
    assert 0.91 <= held / 300 <= 0.98  # 0.95, and three deviations of a binomial of 300


def test_rounds_that_are_alike_widen_it() -> None:
    """Half of a round's deviation stays for the next one, as where a neighbour comes and goes.

    As of independent rounds the interval would hold the truth four times of five (0.81).
    """
    rng = np.random.default_rng(4)
    held, correlations = 0, []
    for _ in range(300):
        deviations = [0.0]
        for step in rng.normal(0, 0.1, 60):
            deviations.append(0.5 * deviations[-1] + step)
        found = compare_paired(list(0.8 * np.exp(deviations[1:])), [1.0] * 60, resamples=400)
        held += found.low <= 0.8 <= found.high
        correlations.append(found.autocorrelation)
    assert 0.90 <= held / 300 <= 0.98
    assert np.median(correlations) == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.uniform(1, 2, (2, 30))
    assert compare_paired(ours, theirs) == compare_paired(ours, theirs)
    assert compare_paired(ours, theirs) != compare_paired(ours, theirs, seed=1)


def test_many_rounds_are_resampled_in_parts() -> None:
    found = compare_paired([2.0] * 50_000, [1.0] * 50_000, resamples=100)
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))


def test_few_rounds_find_nothing() -> None:
    assert not compare_paired([2.0] * 9, [1.0] * 9).differs


def test_overlap() -> None:
    first, second, third = (
        RatioInterval(1, low, high, 50) for low, high in ((0.5, 0.7), (0.7, 0.9), (0.71, 1.2))
    )
    assert first.overlaps(second)
    assert second.overlaps(first)
    assert not first.overlaps(third)
    assert not third.overlaps(first)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([], [], "at least one, got 0 and 0"),
        ([1.0, 2.0], [1.0], "as many rounds of both and at least one, got 2 and 1"),
        ([0.0], [1.0], "expected latencies above 0 ms"),
    ],
)
def test_bad_input(ours: list[float], theirs: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(ours, theirs)
