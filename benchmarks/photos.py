"""Real photos with masks for measurements of reading, resizing and evaluating."""

from __future__ import annotations

from pathlib import Path

import cv2

from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.folder import FolderDataset, open_folder
from segvit.datasets.landcover import Block, LandCover
from segvit.images import Size, write_png

JPEG_QUALITY = 95


def write_photos(folder: Path, count: int, size: Size) -> FolderDataset:
    """Return a folder of JPEGs cut from the Blue Marble at its own resolution, with their masks.

    Args:
        folder: where to write; two folders and a list of classes are made in it.
        count: of images.
        size: (height, width) of each, in pixels.

    Raises:
        ValueError: if the map has no room for as many.
    """
    data = LandCover()
    height, width = data.labels.shape
    places = [
        Block(top, left, *size)
        for top in range(0, height - size[0] + 1, size[0])
        for left in range(0, width - size[1] + 1, size[1])
    ]
    if count > len(places):
        raise ValueError(f"photos: expected at most {len(places)} of {size}, got {count}")
    images, masks, classes = (folder / name for name in ("images", "masks", "classes.txt"))
    for path in (images, masks):
        path.mkdir(parents=True)
    for index, place in enumerate(places[:: len(places) // count][:count]):
        image, labels = data.crop(place)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        path = images / f"{index:03d}.jpg"
        cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        write_png(masks / f"{index:03d}.png", labels)
    classes.write_text("\n".join(name for name, _ in LANDCOVER_CLASSES))
    return open_folder(images, masks, classes)
