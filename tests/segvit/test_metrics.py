"""Segmentation metrics against mmsegmentation's, frozen."""

import json

import numpy as np
import pytest

from segvit.metrics import ConfusionMatrix
from tests.tiny_models import GOLDEN

CASES = json.loads((GOLDEN / "miou.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['case']}")
def test_metrics_are_the_protocol_s(case: dict[str, object]) -> None:
    matrix = ConfusionMatrix(int(str(case["num_classes"])))
    with np.load(GOLDEN / "miou.npz") as arrays:
        prefix = f"case{case['case']}"
        for index in range(int(str(case["n"]))):
            matrix.update(
                arrays[f"{prefix}/pred{index}"],
                arrays[f"{prefix}/gt{index}"],
                reduce_zero_label=bool(case["reduce_zero_label"]),
            )
        counts = matrix.counts
        true, found, hits = counts[:-1].sum(axis=1), counts.sum(axis=0), counts.diagonal()
        totals = {"label": true, "pred": found, "intersect": hits, "union": true + found - hits}
        for name, total in totals.items():
            assert (total == arrays[f"{prefix}/total_{name}"]).all()
        metrics = matrix.compute()
        np.testing.assert_allclose(metrics.iou, arrays[f"{prefix}/IoU"], atol=1e-12)
        np.testing.assert_allclose(metrics.accuracy, arrays[f"{prefix}/Acc"], atol=1e-12)
        assert metrics.pixel_accuracy == pytest.approx(float(arrays[f"{prefix}/aAcc"]))
    assert metrics.miou == pytest.approx(case["mIoU"])
    assert metrics.mean_accuracy == pytest.approx(case["mAcc"])


def test_absent_classes_are_not_averaged() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 1]), np.array([0, 1, 1]))
    metrics = matrix.compute()
    assert metrics.iou[:2].tolist() == [0.5, 0.5]
    assert np.isnan(metrics.iou[2])
    assert metrics.miou == 0.5


def test_nothing_counted_is_not_a_number() -> None:
    assert np.isnan(ConfusionMatrix(3).compute().miou)


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([0, 3], [0, 1], "predicted labels: expected 0 to 2, got 0 to 3"),
        ([0], [0, 1], r"labels: expected \(2,\) predictions, got \(1,\)"),
    ],
)
def test_bad_labels(predicted: list[int], truth: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(np.array(predicted), np.array(truth))


def test_ignored_pixels_may_be_predicted_anything() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([9, 1], np.uint8), np.array([255, 1], np.uint8))
    assert matrix.counts.sum() == 1


def test_a_true_id_that_is_no_class_makes_the_prediction_wrong() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 1]), np.array([0, 9, 1]))
    assert matrix.compute().iou.tolist() == [0.5, 1.0]
    assert matrix.compute().pixel_accuracy == 1.0
