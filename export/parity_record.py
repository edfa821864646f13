"""The figures of a comparison with the reference: of all pixels, and of each class.

Shares and IoU are fractions; intervals are `(low, high)`, of 95 % over images, None where too few
images have a say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassParity:
    """What becomes of one class that the reference's labels or the ground truth hold.

    `pixels` counts the independent pixels that the reference gives the class, in `images` images;
    `recall` is the share of them that the candidate gives it too, `iou` the IoU of the candidate's
    labels against the reference's. `iou_reference` and `iou_exported` are against ground truth,
    where there is some, and `truth_pixels` are the reference's pixels there.
    """

    name: str
    pixels: int
    images: int
    is_gated: bool
    recall: float | None = None
    iou: float | None = None
    recall_interval: Interval | None = None
    iou_interval: Interval | None = None
    truth_pixels: int = 0
    iou_reference: float | None = None
    iou_exported: float | None = None
    iou_drop_interval: Interval | None = None

    @property
    def iou_drop(self) -> float | None:
        """IoU against ground truth, the reference's less the candidate's."""
        if self.iou_reference is None or self.iou_exported is None:
            return None
        return self.iou_reference - self.iou_exported


@dataclass(frozen=True)
class ParityReport:
    """How close a candidate comes to the reference.

    `score_rms` is the root mean square of the scores' difference over that of the reference's
    scores; `max_score_error` the largest difference. mIoU figures are fractions, and None without
    ground truth. `independent_pixels` is None where nobody knows how many there are;
    `images_with_masks` counts the images that have ground truth. `invented_classes` maps the
    classes that the reference hardly finds and the candidate does to the pixels that this gives
    them.
    """

    images: int
    pixel_agreement: float
    score_rms: float
    max_score_error: float
    miou_reference: float | None = None
    miou: float | None = None
    max_class_iou_drop: float | None = None
    # What follows says how far the figures above can be trusted, and is no part of their equality.
    independent_pixels: int | None = field(default=None, compare=False)
    images_with_masks: int = field(default=0, compare=False)
    pixel_agreement_interval: Interval | None = field(default=None, compare=False)
    miou_drop_interval: Interval | None = field(default=None, compare=False)
    score_rms_interval: Interval | None = field(default=None, compare=False)
    classes: tuple[ClassParity, ...] = field(default=(), compare=False)
    unexercised_classes: tuple[str, ...] = field(default=(), compare=False)
    invented_classes: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def worst_class(self) -> ClassParity | None:
        """The gated class that keeps the smallest share of its pixels, by the interval's end."""
        gated = [entry for entry in self.classes if entry.is_gated]
        return min(gated, key=lambda entry: low_end(entry.recall, entry.recall_interval),
                   default=None)  # fmt: skip

    @property
    def ungated_classes(self) -> tuple[str, ...]:
        """The classes with too few pixels for a gate, by name."""
        return tuple(entry.name for entry in self.classes if not entry.is_gated)


def low_end(value: float | None, interval: Interval | None) -> float:
    """Return an interval's lower end, or the value itself where there is no interval; else 1."""
    if interval is not None:
        return interval[0]
    return 1.0 if value is None else value


def high_end(value: float | None, interval: Interval | None) -> float:
    """Return an interval's upper end, or the value itself where there is no interval; else 0."""
    if interval is not None:
        return interval[1]
    return 0.0 if value is None else value
