"""`trainval_merged.json`, the annotations of the PASCAL in Detail challenge.

What is read of it: `images`, each with `image_id`, `file_name`, `height`, `width` and `phase`
(train, val or test); `annos_segmentation`, each with `image_id`, `category_id` (an id of the 459)
and `segmentation`, run lengths as COCO stores them, `{size: [H, W], counts}`.

`H, W` pixels.

Source: the challenge's detail-api, `getImgs` and `getMask`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segvit.datasets.run_length import decode_run_lengths


@dataclass(frozen=True)
class DetailImage:
    """An image of the release and its segments, later ones above earlier ones."""

    stem: str
    phase: str
    size: tuple[int, int]
    segments: tuple[dict[str, Any], ...]

    def draw_labels(self) -> NDArray[np.int64]:
        """Return the ids of the release, `(H, W)`, 0 where no segment is.

        Raises:
            ValueError: if a segment is damaged or of another size.
        """
        labels = np.zeros(self.size, np.int64)
        for segment in self.segments:
            try:
                coded = segment["segmentation"]
                size = (int(coded["size"][0]), int(coded["size"][1]))
                inside = decode_run_lengths(coded["counts"], size)
                labels[inside] = int(segment["category_id"])
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise ValueError(
                    f"image '{self.stem}' of the release has a segment that cannot be drawn at "
                    f"{self.size[0]}x{self.size[1]}: {error}; download the release again"
                ) from error
        return labels


@dataclass(frozen=True)
class DetailRelease:
    """The images of the release; `has_masks` is false where the file holds splits alone."""

    images: tuple[DetailImage, ...]
    has_masks: bool

    def stems(self, split: str) -> tuple[str, ...]:
        """Return the stems of `train` or `val`, sorted."""
        return tuple(sorted(image.stem for image in self.images if image.phase == split))


def read_detail(path: Path) -> DetailRelease:
    """Return what the file says of images and segments.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not of this form.
    """
    try:
        data = json.loads(path.read_bytes())
        segments = defaultdict(list)
        for segment in data.get("annos_segmentation", ()):
            segments[segment["image_id"]].append(segment)
        images = tuple(
            DetailImage(
                Path(image["file_name"]).stem,
                image["phase"],
                (int(image.get("height", 0)), int(image.get("width", 0))),
                tuple(segments[image["image_id"]] if segments else ()),
            )
            for image in data["images"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' is cut off, damaged or no annotations of PASCAL in Detail: "
            f"{type(error).__name__} {error}; download it again"
        ) from error
    return DetailRelease(images, "annos_segmentation" in data)
