"""Classes that vanish, shrink or grow: what is counted, what is refused, and what is noise."""

from collections.abc import Callable

import numpy as np
import pytest

from export.bootstrap import FEWEST_IMAGES
from export.class_parity import LEAST_PIXELS, ParityTally
from export.gates import GATES
from export.parity_record import ClassParity
from export.verify import ParityError, ParityReport, Prediction, check_parity, compare

Change = Callable[[np.ndarray], np.ndarray]
# Of 100x100 pixels: most are of class 0, 140 of class 1 (1.4 %), and a third class is half.
LABELS = np.zeros((1, 100, 100), np.int64)
LABELS[:, :50] = 2
LABELS[:, 90:, 86:] = 1


def _compare(
    labels: np.ndarray, found: np.ndarray, truth: np.ndarray | None, count: int, classes: int = 3
) -> ParityReport:
    """Compare the same labels on so many images; the scores are equal."""
    scores = np.ones((1, classes, 1, 1), np.float32)
    images = np.zeros((count, *labels.shape[1:], 3), np.uint8)
    masks = None if truth is None else np.repeat(truth, count, axis=0)
    return compare(
        lambda _: Prediction(labels, scores), lambda _: Prediction(found, scores), images, masks,
        classes, show_progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_a_class_that_vanishes_is_refused(precision: str, masked: bool, count: int) -> None:
    found = np.where(LABELS == 1, 0, LABELS)
    report = _compare(LABELS, found, LABELS if masked else None, count)
    assert report.pixel_agreement == 0.986
    with pytest.raises(ParityError, match=precision):
        check_parity(report, precision, random_weights=False)
    with pytest.raises(ParityError, match=rf"{precision} loses class 'class 1' \(\S+ pixels of"):
        # On its own, whatever the gates on all pixels say.
        check_parity(ParityReport(count, 1.0, 0.0, 0.0, classes=report.classes), precision, False)


@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("masked", [False, True])
def test_one_of_150_classes_that_vanishes_is_refused(precision: str, masked: bool) -> None:
    labels = np.repeat(np.arange(150), 100).reshape(1, 150, 100)
    truth = labels.copy()
    truth[0, 7, :37] = 8  # the reference finds class 7 with an IoU of 0.63
    found = np.where(labels == 7, 6, labels)
    report = _compare(labels, found, truth if masked else None, 10, 150)
    if masked:
        seventh = report.classes[7]
        assert (seventh.iou_reference, seventh.iou_exported) == (0.63, 0.0)
        assert report.miou_reference is not None
        assert report.miou is not None
        assert report.miou_reference - report.miou < 0.01
    with pytest.raises(ParityError, match=f"{precision} .*; "):
        check_parity(report, precision, random_weights=False)
    if precision not in ("fp32", "fp16"):  # that see it by all pixels as well
        with pytest.raises(ParityError, match="loses class 'class 7'"):
            check_parity(report, precision, random_weights=False, max_miou_drop_points=5)


@pytest.mark.parametrize("precision", GATES)
def test_a_handful_of_pixels_is_noise_and_listed(precision: str) -> None:
    labels = np.zeros((1, 1000, 1000), np.int64)
    labels[0, 0, : LEAST_PIXELS - 1] = 1
    report = _compare(labels, np.zeros_like(labels), None, 1)
    check_parity(report, precision, random_weights=False)
    assert report.ungated_classes == ("class 1",)
    assert report.unexercised_classes == ("class 2",)


def _small_class(lost: int, images: int, gated: bool = True) -> ParityReport:
    """Return a report of one class that keeps all but so many of the fewest pixels for a gate."""
    kept = 1 - lost / LEAST_PIXELS
    bounds = (kept, kept) if images >= FEWEST_IMAGES else None
    entry = ClassParity("a", LEAST_PIXELS, images, gated, kept, kept, bounds, bounds)
    return ParityReport(images, 1.0, 0.0, 0.0, classes=(entry,))


@pytest.mark.parametrize("precision", GATES)
def test_three_pixels_of_a_small_class_are_noise(precision: str) -> None:
    for lost in range(4):
        check_parity(_small_class(lost, FEWEST_IMAGES), precision, random_weights=False)
    with pytest.raises(ParityError, match=r"keeps 0\.8\d+ \(0\.8\d+ to 0\.8\d+\) of class 'a'"):
        check_parity(_small_class(5, FEWEST_IMAGES), precision, random_weights=False)
    check_parity(_small_class(5, FEWEST_IMAGES, gated=False), precision, random_weights=False)


@pytest.mark.parametrize("precision", GATES)
def test_a_class_of_one_image_may_lose_more_but_not_most(precision: str) -> None:
    lost = 9 if precision in ("int8", "fp8") else 3
    check_parity(_small_class(lost, 1), precision, random_weights=False)
    with pytest.raises(ParityError, match=r"of class 'a' \(30 pixels of 1 image\), the gate"):
        check_parity(_small_class(19, 1), precision, random_weights=False)
    if precision in ("int8", "fp8"):  # half as much in four images
        with pytest.raises(ParityError, match=r"4 images\), the gate is 0\.8"):
            check_parity(_small_class(lost, 4), precision, random_weights=False)


def test_a_class_that_takes_another_s_pixels_is_refused() -> None:
    labels = np.zeros((1, 100, 100), np.int64)
    labels[0, :1] = 1
    found = labels.copy()
    found[0, 1, :70] = 1  # its own pixels are all kept
    with pytest.raises(ParityError, match=r"changes class 'class 1' .*PyTorch's labels 0\.5882"):
        check_parity(_compare(labels, found, None, 9), "int8", random_weights=False)


def test_a_drop_that_only_masks_show_is_refused() -> None:
    """Of 1,000 pixels 50 are lost, and they are the ones that were right."""
    labels = np.zeros((1, 100, 100), np.int64)
    labels[0, :10] = 1
    truth = np.zeros_like(labels)
    truth[0, 0] = 1
    found = labels.copy()
    found[0, 0, :50] = 0
    check_parity(_compare(labels, found, None, 9), "int8", random_weights=False)
    classes = _compare(labels, found, truth, 9).classes
    with pytest.raises(ParityError, match=r"loses 0\.0500 \(0\.0500 to 0\.0500\) IoU of class "):
        check_parity(ParityReport(9, 1.0, 0.0, 0.0, classes=classes), "int8", random_weights=False)


@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [1, 16])
def test_a_class_that_is_invented_is_refused(precision: str, masked: bool, count: int) -> None:
    """The reverse of a class that vanishes: 1.4 % of the pixels, of a class that is nowhere."""
    labels = np.where(LABELS == 1, 0, LABELS)
    report = _compare(labels, LABELS, labels if masked else None, count)
    message = rf"{precision} invents class 'class 1': {140 * count:,} pixels that PyTorch gives to"
    with pytest.raises(ParityError, match=message):
        # On its own, whatever the gates on all pixels say.
        check_parity(
            ParityReport(count, 1.0, 0.0, 0.0, invented_classes=report.invented_classes),
            precision, False,
        )  # fmt: skip
    few = np.where(np.arange(LABELS.size).reshape(LABELS.shape) < LEAST_PIXELS - 1, 1, labels)
    assert _compare(labels, few, None, 1).invented_classes == {}


@pytest.mark.parametrize("count", [1, 16])
def test_a_stray_pixel_does_not_weigh_as_a_class(count: int) -> None:
    """Of a fourth class, which the truth does not hold; gained or lost, it hides no drop."""
    stray = LABELS.copy()
    stray[0, 0, 0] = 3
    gained = _compare(LABELS, stray, LABELS, count, 4)
    assert gained.miou_reference == 1.0
    assert gained.miou == pytest.approx((1 + 1 + 4999 / 5000) / 3)
    found = np.where(LABELS == 1, 0, LABELS)
    lost = _compare(stray, found, LABELS, count, 4)
    assert lost.miou_reference == pytest.approx((1 + 1 + 4999 / 5000 + 0) / 4)
    assert lost.miou == pytest.approx((4860 / 5000 + 0 + 1 + 0) / 4)
    assert lost.max_class_iou_drop == 1.0


def test_the_worse_end_of_an_interval_is_what_counts() -> None:
    """Two images of sixteen lose the class: on average a tenth of it, or half as much again."""
    scores = np.ones((1, 3, 1, 1), np.float32)
    images = np.zeros((16, 100, 100, 3), np.uint8)
    images[:2] = 1

    def candidate(batch: np.ndarray) -> Prediction:
        kept = LABELS.copy()
        if batch[0, 0, 0, 0]:
            kept[:, 90:95] = 0
        return Prediction(kept, scores)

    report = compare(lambda _: Prediction(LABELS, scores), candidate, images, None, 3,
                     show_progress=False)  # fmt: skip
    rare = report.classes[1]
    assert rare.recall == 1 - 2 * 0.5 / 16
    assert rare.recall > GATES["int8"].class_recall
    assert rare.recall_interval is not None
    assert rare.recall_interval[0] < GATES["int8"].class_recall
    message = r"int8 keeps 0\.9375 \(0\.8\d+ to 1\.0000\) of class .*; verify on more images "
    with pytest.raises(ParityError, match=message):
        check_parity(report, "int8", random_weights=False)


def test_few_images_have_no_interval_and_are_gated_on_the_figure() -> None:
    report = _compare(LABELS, LABELS, LABELS, 7)
    assert report.pixel_agreement_interval is None
    assert all(entry.recall_interval is None for entry in report.classes)
    assert _compare(LABELS, LABELS, LABELS, 8).pixel_agreement_interval == (1.0, 1.0)


def test_pixels_that_repeat_their_neighbors_count_once() -> None:
    tally = ParityTally(("a", "b", "c"))
    tally.add_labels(LABELS[0], LABELS[0], None, independent_share=1 / 16)
    tally.add_scores(np.ones((3, 1, 1)), np.ones((3, 1, 1)))
    report = tally.summarize()
    assert report.independent_pixels == 625
    assert [entry.pixels for entry in report.classes] == [304, 9, 312]
    assert report.ungated_classes == ("b",)


def test_an_image_without_a_mask_counts_for_agreement_alone() -> None:
    truth = np.concatenate([LABELS, np.full_like(LABELS, 255)])
    scores = np.ones((2, 3, 1, 1), np.float32)
    found = np.concatenate([LABELS, np.zeros_like(LABELS)])
    report = compare(
        lambda _: Prediction(np.concatenate([LABELS, LABELS]), scores),
        lambda _: Prediction(found, scores),
        np.zeros((2, 100, 100, 3), np.uint8), truth, 3, batch=2, show_progress=False,
    )  # fmt: skip
    assert report.images_with_masks == 1
    assert (report.miou_reference, report.miou) == (1.0, 1.0)
    assert report.pixel_agreement < 0.75
    assert [entry.recall for entry in report.classes] == [1.0, 0.5, 0.5]


def test_advice_names_no_precision_that_failed() -> None:
    for precision in GATES:
        with pytest.raises(ParityError) as caught:
            check_parity(ParityReport(1, 0.5, 0.0, 0.0), precision, random_weights=False)
        assert f"--{precision}" not in str(caught.value)
