"""Comparison of two callables, with differences made by hand."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.verify import GATES, ParityError, ParityReport, Prediction, check_parity, compare

IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)


def _predict(images: NDArray[np.uint8]) -> Prediction:
    """Two classes: the red channel's parity decides."""
    odd = (images[..., 0] % 2).astype(np.float32)
    scores = np.stack([1 - odd, odd], axis=1)
    return Prediction(scores.argmax(axis=1), scores)


def _with_one_wrong_pixel(images: NDArray[np.uint8]) -> Prediction:
    right = _predict(images)
    labels, scores = right.labels.copy(), right.scores.copy()
    labels[0, 0, 0] = 1 - labels[0, 0, 0]
    scores[0, :, 0, 0] = scores[0, ::-1, 0, 0]
    return Prediction(labels, scores)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_equal_callables_agree_at_any_batch(batch: int) -> None:
    truth = _predict(IMAGES).labels
    report = compare(_predict, _predict, IMAGES, truth, 2, batch, show_progress=False)
    assert report == ParityReport(3, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0)


def test_differences_are_counted() -> None:
    truth = _predict(IMAGES).labels
    report = compare(
        _predict, _with_one_wrong_pixel, IMAGES, truth, 2, batch=3, show_progress=False
    )
    pixels = 3 * 4 * 4
    assert report.pixel_agreement == 1 - 1 / pixels
    assert report.max_score_error == 1.0
    # Both scores of one pixel are off by 1; of every pixel one score is 1 and the other 0.
    assert report.score_rms == pytest.approx((2 / pixels) ** 0.5)
    assert report.miou_reference == 1.0
    half = pixels // 2
    assert report.miou == pytest.approx(((half - 1) / half + half / (half + 1)) / 2)
    assert report.max_class_iou_drop == pytest.approx(1 / half)


def test_scores_are_compared_in_little_memory() -> None:
    images = np.zeros((1, 256, 256, 3), np.uint8)
    scores = np.zeros((1, 64, 256, 256), np.float32)  # 17 MB
    prediction = Prediction(np.zeros((1, 256, 256), np.int64), scores)
    tracemalloc.start()
    compare(lambda _: prediction, lambda _: prediction, images, None, 64, show_progress=False)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < scores.nbytes / 2


def test_without_truth_there_is_no_miou() -> None:
    report = compare(_predict, _predict, IMAGES, None, 2, show_progress=False)
    assert report.miou is report.miou_reference is report.max_class_iou_drop is None


def test_last_batch_is_filled_up_but_counted_once() -> None:
    sizes = []

    def candidate(images: NDArray[np.uint8]) -> Prediction:
        sizes.append(len(images))
        return _predict(images)

    report = compare(_predict, candidate, IMAGES, None, 2, batch=2, show_progress=False)
    assert sizes == [2, 2]
    assert report.images == 3


@pytest.mark.parametrize("precision", GATES)
def test_gates_pass_at_the_gate_and_fail_below(precision: str) -> None:
    gate = GATES[precision]
    good = ParityReport(
        1, gate.pixel_agreement, gate.score_rms, 1.0, 0.5, 0.5 - gate.miou_drop * 0.99, 0.0
    )
    check_parity(good, precision, random_weights=False)
    for changes, message in (
        ({"pixel_agreement": gate.pixel_agreement - 1e-5}, "labels agree .* the gate is"),
        ({"miou": 0.5 - gate.miou_drop * 1.01}, "loses"),
        ({"score_rms": gate.score_rms * 1.01}, "scores differ from PyTorch's by"),
        # The figures are good, and the intervals' worse ends are not.
        ({"pixel_agreement_interval": (gate.pixel_agreement - 1e-5, 1.0)}, "labels agree"),
        ({"miou_drop_interval": (0.0, gate.miou_drop * 1.01)}, "loses"),
        ({"score_rms_interval": (0.0, gate.score_rms * 1.01)}, "scores differ"),
    ):
        with pytest.raises(ParityError, match=f"{precision} {message}"):
            check_parity(replace(good, **changes), precision, random_weights=False)


def test_random_weights_are_gated_on_scores_alone() -> None:
    labels_mean_nothing = ParityReport(1, 0.3, GATES["fp16"].score_rms, 1.0, 0.5, 0.1, 0.4)
    check_parity(labels_mean_nothing, "fp16", random_weights=True)
    with pytest.raises(ParityError, match=r"scores differ from PyTorch's by 2\.10e-03"):
        check_parity(ParityReport(1, 1.0, 2.1e-3, 1.0), "fp16", random_weights=True)


def test_gates_are_the_promised_ones() -> None:
    assert GATES["fp32"].pixel_agreement >= 0.9999
    assert GATES["fp16"].pixel_agreement >= 0.999
    assert GATES["fp16"].miou_drop <= 0.001
    assert GATES["fp16"].score_rms <= 2e-3


@pytest.mark.parametrize("random_weights", [False, True])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_scores_that_are_no_numbers_fail_in_words(value: str, random_weights: bool) -> None:
    report = ParityReport(1, 1.0, float(value), 1.0)
    with pytest.raises(ParityError, match=f"by {value} .*: some scores are no finite numbers"):
        check_parity(report, "fp16", random_weights)


def test_one_score_that_is_no_number_shows() -> None:
    def candidate(images: NDArray[np.uint8]) -> Prediction:
        scores = _predict(images).scores.copy()
        scores[0, 0, 0, 0] = np.nan
        return Prediction(_predict(images).labels, scores)

    report = compare(_predict, candidate, IMAGES, None, 2, show_progress=False)
    assert np.isnan(report.score_rms)
    assert np.isnan(report.max_score_error)


def test_without_truth_the_reference_can_serve_as_it() -> None:
    """By hand: of the two classes that the reference holds, one loses a pixel to a third."""
    wanted = np.array([[[0, 0, 1, 1]]])
    got = np.array([[[0, 0, 1, 2]]])
    scores = np.zeros((1, 3, 1, 4), np.float32)
    images = np.zeros((1, 1, 4, 3), np.uint8)

    def run(against_reference: bool) -> ParityReport:
        return compare(
            lambda _: Prediction(wanted, scores),
            lambda _: Prediction(got, scores),
            images,
            None,
            3,
            show_progress=False,
            against_reference=against_reference,
        )

    report = run(True)
    assert (report.miou_reference, report.miou) == (1.0, 0.75)  # not 0.5, by the stray class
    assert run(False).miou is None
    good = replace(report, pixel_agreement=1.0, score_rms=0.0, max_score_error=0.0)
    with pytest.raises(ParityError, match=r"loses 0\.2500 mIoU"):
        check_parity(good, "int8", random_weights=False, max_miou_drop_points=0.3)
    check_parity(good, "int8", random_weights=False, max_miou_drop_points=25)
