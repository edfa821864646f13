"""`benchmarks.parity_counts` on labels whose figures are known beforehand."""

import numpy as np
import pytest

from benchmarks.boundaries import measure_boundary_distance
from benchmarks.parity_counts import ParityTally, compute_iou, count_classes

NAMES = ("a", "b", "c")


def tally_of(triples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ParityTally:
    """Reference, candidate and truth of each image."""
    tally = ParityTally(NAMES)
    for reference, found, truth in triples:
        counts = count_classes(reference, truth, len(NAMES))
        tally.add(reference, found, truth, counts, measure_boundary_distance(reference))
    return tally


def flip(labels: np.ndarray, count: int, label: int) -> np.ndarray:
    changed = labels.copy()
    changed.reshape(-1)[:count] = label
    return changed


def test_figures_by_hand() -> None:
    reference = np.repeat([[0] * 6 + [1] * 6], 2, axis=0)
    found = reference.copy()
    found[0, 5], found[0, 0] = 1, 2  # one beside the boundary, one six pixels from it
    truth = reference.copy()
    truth[1, :] = 255
    summary = tally_of([(reference, found, truth)]).summarise(100, 0)
    assert (summary["images"], summary["pixels"]) == (1, 24)
    assert summary["pixel_agreement"] == pytest.approx(22 / 24)
    assert summary["miou_reference"] == 1.0
    iou = {row["name"]: row for row in summary["classes"]}
    assert iou["a"]["iou"] == pytest.approx(4 / 6)
    assert iou["b"]["iou_delta"] == pytest.approx(6 / 7 - 1)
    assert iou["c"]["iou"] == 0.0
    assert iou["c"]["iou_reference"] is iou["c"]["iou_delta"] is None  # in neither before
    assert summary["miou"] == pytest.approx((4 / 6 + 6 / 7 + 0) / 3)
    assert summary["pixel_agreement_interval"] is summary["miou_delta_interval"] is None
    changed = summary["changed"]
    assert (changed["pixels"], changed["share"]) == (2, pytest.approx(2 / 24))
    assert {(m["from"], m["to"], m["pixels"], m["share"]) for m in changed["moves"]} == {
        ("a", "b", 1, 0.5), ("a", "c", 1, 0.5),
    }  # fmt: skip
    assert [row["changed_share"] for row in changed["boundary_distance"]] == [0.5, 0.5, 0.5, 1.0]
    assert [row["all_share"] for row in changed["boundary_distance"]] == [
        pytest.approx(share) for share in (4 / 24, 8 / 24, 16 / 24, 1.0)
    ]


def test_equal_labels_have_no_width() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (8, 8)) for _ in range(5)]
    summary = tally_of([(m, m, rng.integers(0, 3, (8, 8))) for m in maps]).summarise(200, 0)
    assert summary["pixel_agreement_interval"] == (1.0, 1.0)
    assert summary["miou_delta_interval"] == (0.0, 0.0)
    assert summary["changed"]["moves"] == []
    assert summary["changed"]["share"] == 0.0


def test_interval_of_a_mean_is_the_normal_one() -> None:
    """Agreement is a mean over images of one size: its standard error is known."""
    rng = np.random.default_rng(1)
    reference = np.zeros((10, 10), np.int64)
    wrong = rng.integers(0, 40, 400)
    images = [(reference, flip(reference, count, 1), reference) for count in wrong]
    low, high = tally_of(images).summarise(4000, 0)["pixel_agreement_interval"]
    error = (wrong / 100).std() / 400**0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert low < 1 - wrong.mean() / 100 < high


def test_a_planted_loss_is_found_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    truth = [rng.integers(0, 3, (20, 20)) for _ in range(40)]

    def noisy(labels: np.ndarray, share: float) -> np.ndarray:
        return np.where(rng.random(labels.shape) < share, rng.integers(0, 3, labels.shape), labels)

    reference = [noisy(labels, 0.2) for labels in truth]
    worse = [noisy(labels, 0.05) for labels in reference]
    alike = [noisy(labels, 0.2) for labels in truth]
    lost = tally_of(list(zip(reference, worse, truth, strict=True))).summarise(1000, 0)
    kept = tally_of(list(zip(reference, alike, truth, strict=True))).summarise(1000, 0)
    assert lost["miou_delta_interval"][1] < 0
    assert kept["miou_delta_interval"][0] < 0 < kept["miou_delta_interval"][1]
    again = tally_of(list(zip(reference, worse, truth, strict=True))).summarise(1000, 0)
    assert again == lost


def test_iou_of_an_absent_class_is_no_number() -> None:
    iou = compute_iou(np.array([[3, 0], [4, 0], [5, 0]]))
    assert iou[0] == pytest.approx(3 / 6)
    assert np.isnan(iou[1])
