"""Any folder of images with a folder of masks and a list of classes.

Shapes: `H, W` pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.classes import Rgb, read_classes
from segvit.images import Image, decode_pixels, find_images, read_image
from segvit.metrics import IGNORE_LABEL

Mask = NDArray[np.uint8]
_NAMES_SHOWN = 5
_PNG_START = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types of a PNG


class Sample(NamedTuple):
    """An image file and its mask's."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class FolderDataset:
    """Images with masks of class ids, 255 for ignored pixels.

    With `reduce_zero_label`, 0 in a mask file means ignored and the other ids are one too high, as
    ADE20K's are.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    reduce_zero_label: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[Image, Mask]]:
        """Yield each sample's image `(H, W, 3)` and mask `(H, W)`; raises as `read` does."""
        return (self.read(sample) for sample in self.samples)

    def read(self, sample: Sample) -> tuple[Image, Mask]:
        """Return the image `(H, W, 3)` and the mask `(H, W)` of a sample.

        Raises:
            UnreadableError: naming a file that is empty, cut off or damaged.
            ValueError: if the mask does not fit the image or the classes.
        """
        image, mask = read_image(sample.image), self.read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"mask '{sample.mask}' is {mask.shape[0]}x{mask.shape[1]}, its image "
                f"'{sample.image}' {image.shape[0]}x{image.shape[1]}; give the mask made for it"
            )
        return image, mask

    def read_mask(self, path: Path) -> Mask:
        """Return the class ids of a mask file, uint8 `(H, W)`, 255 for ignored pixels.

        Of a PNG with a palette the ids are the indices, as PASCAL VOC stores them.

        Raises:
            UnreadableError: if it is empty, cut off, or no image that OpenCV reads.
            ValueError: if it has several channels, or holds ids beyond the classes.
        """
        data = path.read_bytes()
        stored = decode_pixels(_as_grey_png(data), cv2.IMREAD_UNCHANGED, f"mask '{path}'")
        if stored.ndim != 2:
            raise ValueError(
                f"mask '{path}' has {stored.shape[2]} channels, expected one of class ids; if it "
                "has a colour palette, save its indices as a grey PNG"
            )
        # By a table of all values that a file can hold: a tenth of the arithmetic's time.
        count = int(np.iinfo(stored.dtype).max) + 1
        ids = np.arange(count) // _grey_step(data)
        if self.reduce_zero_label:
            ids = np.where((ids == 0) | (ids == IGNORE_LABEL), IGNORE_LABEL, ids - 1)
        unknown = (ids >= len(self.class_names)) & (ids != IGNORE_LABEL)
        pixels = np.ravel(cv2.calcHist([stored], [0], None, [count], [0, count]))
        if pixels[unknown].any():
            beyond = np.unique(ids[unknown & (pixels > 0)])
            shown = ", ".join(map(str, beyond[:_NAMES_SHOWN]))
            raise ValueError(
                f"mask '{path}' has {pixels[unknown].sum():.0f} pixels of unknown classes "
                f"({shown}); expected 0 to {len(self.class_names) - 1}, or {IGNORE_LABEL} for "
                "ignored; mend the mask or the list of classes"
                + ("" if self.reduce_zero_label else ", or --reduce-zero-label")
            )
        table = ids.astype(np.uint8)
        return np.asarray(cv2.LUT(stored, table)) if count == 256 else table[stored]


def open_folder(
    images: Path, masks: Path, classes: Path, reduce_zero_label: bool = False
) -> FolderDataset:
    """Return the pairs of two folders: files of the same stem, in order.

    Args:
        images: folder of images.
        masks: folder of grey PNGs of class ids.
        classes: text file, a class a line: `name`, or `name,red,green,blue`.
        reduce_zero_label: 0 in the masks means ignored.

    Raises:
        FileNotFoundError: if a folder or the file is missing.
        ValueError: if there are no pairs, an image has no mask, or the list is malformed.
    """
    names, palette = read_classes(classes)
    found = {path.stem: path for path in find_images([masks])}
    paths = find_images([images])
    lacking = [path for path in paths if path.stem not in found]
    if lacking:
        shown = ", ".join(path.name for path in lacking[:_NAMES_SHOWN])
        raise ValueError(
            f"{len(lacking)} of {len(paths)} images in '{images}' have no mask of the same name in "
            f"'{masks}' (first: {shown}); copy the masks, or move those images away"
        )
    samples = tuple(Sample(path, found[path.stem]) for path in paths)
    return FolderDataset(samples, names, palette, reduce_zero_label)


def _as_grey_png(data: bytes) -> bytes:
    """Return a PNG with a palette as the grey PNG of its indices; anything else as it is.

    OpenCV would return the palette's colours, whatever its flags. The compressed pixels are the
    same in both kinds, so that only the header changes.

    Source: Portable Network Graphics (W3C), 11.2.1 IHDR and 5.3 chunk layout.
    """
    if not data.startswith(_PNG_START) or data[25:26] != bytes([_PALETTE]):
        return data
    header = data[12:25] + bytes([_GREY]) + data[26:29]
    kept = [_PNG_START, data[8:12], header, zlib.crc32(header).to_bytes(4)]
    start = 33
    while start < len(data):
        length = int.from_bytes(data[start : start + 4])
        # Transparency and background are those of a palette and would be misread as a grey's.
        if data[start + 4 : start + 8] in (b"IDAT", b"IEND"):
            kept.append(data[start : start + 12 + length])
        start += 12 + length
    return b"".join(kept)


def _grey_step(data: bytes) -> int:
    """Return by how much neighbouring ids differ once OpenCV has stretched 1, 2 or 4 bits to 8."""
    depth = data[24] if data.startswith(_PNG_START) and len(data) > 25 else 8
    return 255 // (2**depth - 1) if depth < 8 else 1
