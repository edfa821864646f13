"""`benchmarks.boundaries`: distances on maps small enough to write down."""

import numpy as np

from benchmarks.boundaries import count_within, measure_boundary_distance


def test_distance_counts_from_either_side_of_a_boundary() -> None:
    labels = np.zeros((3, 8), np.uint8)
    labels[:, 4:] = 2
    expected = np.tile([4, 3, 2, 1, 1, 2, 3, 4], (3, 1))
    np.testing.assert_allclose(measure_boundary_distance(labels), expected)


def test_a_corner_touches_two_sides_and_the_diagonal_is_euclidean() -> None:
    labels = np.zeros((4, 4), np.uint8)
    labels[0, 0] = 1
    distance = measure_boundary_distance(labels)
    np.testing.assert_allclose(distance[0], [1, 1, 2, 3])
    np.testing.assert_allclose(distance[1, 1], 2)
    np.testing.assert_allclose(distance[2, 2], 1 + np.hypot(1, 2), rtol=1e-6)


def test_without_a_boundary_nothing_is_near() -> None:
    distance = measure_boundary_distance(np.zeros((4, 5), np.uint8))
    assert np.isinf(distance).all()
    assert count_within(distance).tolist() == [0, 0, 0, 0]


def test_counts_are_cumulative() -> None:
    distance = np.array([1, 1, 2, 3, 4, 8, 8.5, np.inf], np.float32)
    assert count_within(distance).tolist() == [2, 3, 5, 6]
