"""The published inference protocols: whole image, sliding window, several scales, flips.

They drive anything that maps a batch of crops to scores: the reference model or an engine built
with `--output scores`. No torch.

Shapes: `B` batch, `K` classes, `H, W` pixels of an image, `h, w` of a crop.
Source: SegViT section 4 (arXiv 2210.05844); the protocols are those of mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.images import Size

Pixels = NDArray[Any]  # RGB, `(H, W, 3)`: uint8, or float where already normalised
Scores = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]
Predict = Callable[[Pixels], Scores]

MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
LONGEST_SIDE = 2048
_SOFTMAX_ROWS = 64


@dataclass(frozen=True)
class Protocol:
    """How an image becomes scores.

    `short_side` is what an image's short side is resized to, its long side capped at 2048; with
    `least_side` it never gets shorter than that at small scales, and the cap is off. `crop` and
    `stride` are (height, width) of the sliding window; a `crop` of None gives the whole image to
    the model at once. Each view, one a scale and flip, gives its softmax over the scores, and
    these are averaged; with one view the scores themselves decide.

    Raises:
        ValueError: if a field is out of range.
    """

    short_side: int
    least_side: int | None = None
    crop: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        if (self.crop is None) != (self.stride is None):
            raise ValueError("protocol: crop and stride go together")
        if self.crop and self.stride and not all(
            0 < step <= side for side, step in zip(self.crop, self.stride, strict=True)
        ):  # fmt: skip
            raise ValueError(
                f"protocol: expected a stride of 1 to the crop {self.crop}, got {self.stride}"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"protocol: expected scales above 0, got {self.scales}")
        if self.short_side < 1 or self.batch_size < 1:
            raise ValueError("protocol: short side and batch size must be at least 1")

    @classmethod
    def published(
        cls,
        crop: Size,
        stride: Size,
        short_side: int,
        slides: bool = True,
        multi_scale: bool = False,
        flip: bool = False,
        batch_size: int = 1,
    ) -> Protocol:
        """Return the protocol of published figures; no side gets shorter than the crop's.

        Args:
            crop: (height, width) of the model's windows.
            stride: of them.
            short_side: of images at scale 1; PASCAL-Context's is longer than its crop.
            slides: False gives whole images to the model.
            multi_scale: six scales.
            flip: and mirrored images.
            batch_size: windows a call.
        """
        can_shrink = multi_scale or short_side != min(crop)
        return cls(
            short_side=short_side,
            least_side=min(crop) if can_shrink else None,
            crop=crop if slides else None,
            stride=stride if slides else None,
            scales=MULTI_SCALES if multi_scale else (1.0,),
            flip=flip,
            batch_size=batch_size,
        )


def rescale_size(
    size: Size, short_side: int, least_side: int | None = None, scale: float = 1.0
) -> Size:
    """Return the (height, width) an image is resized to, its ratio kept; sizes round half up.

    Args:
        size: (height, width) of the image.
        short_side: of the result, unless the long side would then pass 2048; both times `scale`.
        least_side: what the short side is at least; the cap on the long side is then off.
        scale: of a multi-scale view.
    """
    longest, shortest = float(int(LONGEST_SIDE * scale)), float(int(short_side * scale))
    if least_side is not None:
        shortest = max(shortest, float(least_side))
        longest = shortest * max(size) / min(size)
    factor = min(longest / max(size), shortest / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def list_windows(size: Size, crop: Size, stride: Size) -> list[Size]:
    """Return (top, left) of every window; the last ones clamp to the far edge."""
    starts = []
    for side, window, step in zip(size, crop, stride, strict=True):
        count = max(side - window + step - 1, 0) // step + 1
        starts.append([max(min(index * step, side - window), 0) for index in range(count)])
    return [(top, left) for top in starts[0] for left in starts[1]]


def score_slide(
    predict: Predict, image: Pixels, crop: Size, stride: Size, fill: Sequence[float],
    batch_size: int = 1,
) -> Scores:  # fmt: skip
    """Return the scores of an image, averaged where windows overlap, `(K, H, W)`.

    Args:
        predict: crops `(B, h, w, 3)` to scores `(B, K, h, w)`; `B` is at most `batch_size`.
        image: `(H, W, 3)`; one smaller than the crop is padded on the right and at the bottom, and
            the scores there are dropped.
        crop: (height, width) of a window.
        stride: (height, width) from one window to the next.
        fill: the pixel to pad with, where `predict` normalises the mean of its data.
        batch_size: windows a call.
    """
    height, width = image.shape[:2]
    padded = _pad(image, crop, fill)
    size: Size = (padded.shape[0], padded.shape[1])
    windows = list_windows(size, crop, stride)
    total: Scores | None = None
    count = np.zeros(size, np.float32)
    for start in range(0, len(windows), batch_size):
        part = windows[start : start + batch_size]
        crops = np.stack([padded[y : y + crop[0], x : x + crop[1]] for y, x in part])
        for (top, left), scores in zip(part, predict(crops), strict=True):
            if total is None:
                total = np.zeros((len(scores), *size), np.float32)
            area = np.s_[top : top + crop[0], left : left + crop[1]]
            total[(slice(None), *area)] += scores
            count[area] += 1
        del scores  # or it lives until the next ones are there
    assert total is not None
    total /= count
    return total[:, :height, :width]


def score_views(
    predict: Predict, image: Pixels, protocol: Protocol, fill: Sequence[float]
) -> Iterator[Scores]:
    """Yield the scores `(K, h, w)` of each scale and flip, turned back, at that scale's size."""
    size: Size = (image.shape[0], image.shape[1])
    for scale in protocol.scales:
        wanted = rescale_size(size, protocol.short_side, protocol.least_side, scale)
        view = image if wanted == size else resize_bilinear(image, wanted)
        yield _score_view(predict, view, protocol, fill)
        if protocol.flip:
            yield _score_view(predict, view[:, ::-1], protocol, fill)[..., ::-1]


def label_image(
    predict: Predict, image: Pixels, protocol: Protocol, fill: Sequence[float]
) -> Labels:
    """Return the class ids `(H, W)` of an image by a protocol, at the image's own size.

    Args:
        predict: crops `(B, h, w, 3)` to scores `(B, K, h, w)`.
        image: RGB `(H, W, 3)`.
        protocol: what to do.
        fill: the pixel to pad small images with.
    """
    size: Size = (image.shape[0], image.shape[1])
    views = score_views(predict, image, protocol, fill)
    if len(protocol.scales) == 1 and not protocol.flip:
        return label_scores(next(views), size)
    labels: Labels = average_views(views, size).argmax(axis=0)
    return labels


def average_views(views: Iterator[Scores], size: Size) -> Scores:
    """Return the mean over views of the softmax over their scores at `size`, `(K, H, W)`.

    Raises:
        ValueError: if there are no views.
    """
    mean: Scores | None = None
    for count, scores in enumerate(views, 1):
        resized = np.empty((len(scores), *size), np.float32)
        for plane, target in zip(scores, resized, strict=True):
            target[:] = resize_bilinear(plane, size)
        del scores, plane
        mean = np.zeros_like(resized, np.float32) if mean is None else mean
        # In strips of rows: the exponentials of a whole image would be a third array of its size.
        for top in range(0, size[0], _SOFTMAX_ROWS):
            rows = np.s_[:, top : top + _SOFTMAX_ROWS]
            powers = np.exp(resized[rows] - resized[rows].max(axis=0))
            mean[rows] += (powers / powers.sum(axis=0) - mean[rows]) / np.float32(count)
    if mean is None:
        raise ValueError("views: expected at least one, got none")
    return mean


def label_scores(scores: Scores, size: Size) -> Labels:
    """Return the class of the largest score at `size`, class by class to hold one at a time."""
    best = resize_bilinear(scores[0], size)
    labels = np.zeros(size, np.int64)
    for index in range(1, len(scores)):
        plane = resize_bilinear(scores[index], size)
        better = plane > best
        labels[better] = index
        np.maximum(best, plane, out=best)
    return labels


def resize_bilinear(values: Pixels, size: Size) -> Pixels:
    """Return an image or a plane of scores at `size`, as torch with `align_corners=False` does."""
    if values.shape[:2] == size:
        return values
    source = np.ascontiguousarray(values)
    return np.asarray(cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR))


def _score_view(
    predict: Predict, view: Pixels, protocol: Protocol, fill: Sequence[float]
) -> Scores:
    if protocol.crop is None or protocol.stride is None:
        scores: Scores = predict(np.ascontiguousarray(view)[None])[0]
        return scores
    return score_slide(predict, view, protocol.crop, protocol.stride, fill, protocol.batch_size)


def _pad(image: Pixels, crop: Size, fill: Sequence[float]) -> Pixels:
    """Return the image with at least a crop's height and width."""
    height, width = (max(have, need) for have, need in zip(image.shape[:2], crop, strict=True))
    if (height, width) == image.shape[:2]:
        return image
    padded = np.empty((height, width, 3), image.dtype)
    padded[:] = np.asarray(fill, np.float64).round() if image.dtype == np.uint8 else fill
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
