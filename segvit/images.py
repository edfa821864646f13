"""Images in, labels and overlays out; resizing as the published mIoU protocol does it (OpenCV).

`H, W` pixels. Images are RGB, uint8 `(H, W, 3)`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# OpenCV reads its limit once, when it is loaded: 2**28 pixels are 0.8 GB in RGB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))

import cv2
import numpy as np
import numpy.typing as npt

from segvit.atomic import write_bytes

Image = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer[Any]]
Rgb = tuple[int, int, int]
Size = tuple[int, int]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
_MOST_ENTRIES = 40  # of a legend: two columns beside a 512-pixel image
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# After a scan's start, entropy-coded bytes hold 0xFF only before 0x00 or a restart marker.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA


class UnreadableError(ValueError):
    """A file of pixels that is empty, cut off or damaged; the files beside it may be whole."""


def read_image(path: str | Path) -> Image:
    """Return an image file as RGB, uint8 `(H, W, 3)`, turned upright by its EXIF orientation.

    Grey becomes RGB, alpha is dropped (pixels as stored, not blended with any background), 16-bit
    channels are scaled to 8 (divided by 257 and rounded).

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableError: if it is empty, cut off, or no image that OpenCV reads.
        ValueError: if it is of float type, or above the limit of `OPENCV_IO_MAX_IMAGE_PIXELS`.
    """
    path = Path(path)
    if not path.is_file():
        problem = "a folder, expected an image file" if path.is_dir() else "no such image"
        raise FileNotFoundError(2, problem, str(path))
    data = path.read_bytes()
    if not data:
        raise UnreadableError(f"image '{path}' is empty (0 bytes)")
    decoded = decode_pixels(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, f"image '{path}'")
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image '{path}' has {decoded.dtype} pixels, expected 8 or 16 bits")
    if decoded.dtype == np.uint16:
        decoded = ((decoded.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def decode_pixels(data: bytes, flags: int, subject: str) -> npt.NDArray[Any]:
    """Return the pixels of an encoded image, `(H, W)` or `(H, W, channels)` in OpenCV's order.

    Args:
        data: the bytes of the file.
        flags: OpenCV's, such as `cv2.IMREAD_UNCHANGED`.
        subject: what errors call it, such as `image 'a.png'`.

    Raises:
        UnreadableError: if it is cut off, or no image that OpenCV reads.
        ValueError: if it is above the limit of `OPENCV_IO_MAX_IMAGE_PIXELS`.
    """
    if not _is_complete(data):
        raise UnreadableError(f"{subject} is cut off: its end is missing; copy it again")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        if "MAX_IMAGE_" in str(error):
            limit = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])
            raise ValueError(
                f"{subject} is larger than {limit / 1e6:.0f} megapixels; cut it into tiles, "
                "or raise the environment variable OPENCV_IO_MAX_IMAGE_PIXELS"
            ) from error
        raise UnreadableError(f"{subject} cannot be decoded: {error.err or error}") from error
    if decoded is None:
        raise UnreadableError(f"{subject} cannot be decoded: it is damaged or no image")
    return np.asarray(decoded)


def resize_image(image: Image, size: Size) -> Image:
    """Return the image at `size` (height, width), interpolated linearly."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_labels(labels: Labels, size: Size) -> Labels:
    """Return class ids at `size` (height, width), each that of the nearest pixel."""
    if labels.shape == size:
        return labels
    rows = (np.arange(size[0]) * 2 + 1) * labels.shape[0] // (2 * size[0])
    columns = (np.arange(size[1]) * 2 + 1) * labels.shape[1] // (2 * size[1])
    resized: Labels = labels[rows[:, None], columns]
    return resized


def write_labels(path: str | Path, labels: Labels, num_classes: int) -> None:
    """Write class ids as a grey PNG: 8 bits, or 16 above 256 classes."""
    write_png(path, labels.astype(np.uint8 if num_classes <= 256 else np.uint16))


def write_png(path: str | Path, image: npt.NDArray[Any]) -> None:
    """Write an RGB or grey image as PNG, replacing an older file only when complete."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, encoded = cv2.imencode(".png", stored)
    write_bytes(path, encoded.tobytes())


def class_shares(labels: Labels, num_classes: int) -> npt.NDArray[np.float64]:
    """Return the share of pixels of each class; ids from `num_classes` on count in none."""
    counts = np.bincount(labels.reshape(-1).astype(np.int64), minlength=num_classes)
    return np.asarray(counts[:num_classes] / max(labels.size, 1), np.float64)


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the images that files, folders (not those inside them) and globs name, in order.

    A file is taken whatever its suffix; of a folder, or where a glob also finds other files, those
    with an image's suffix are. Each file comes once.

    Raises:
        FileNotFoundError: if an input names nothing.
        ValueError: if a folder or glob holds no image.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = _with_image_suffix(path.iterdir())
        elif any(mark in str(item) for mark in "*?["):
            matches = _with_image_suffix(_expand_glob(str(item)))
        else:
            raise FileNotFoundError(2, "no such image, folder or pattern", str(item))
        if not matches:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"'{item}' holds no images; expected files ending in {suffixes}")
        found.update(dict.fromkeys(matches))
    return list(found)


@dataclass(frozen=True)
class LegendEntry:
    """A class, its colour and its share of the image."""

    name: str
    colour: Rgb
    share: float


def draw_overlay(
    image: Image,
    labels: Labels,
    class_names: Sequence[str],
    palette: Sequence[Rgb],
    opacity: float = 0.5,
) -> Image:
    """Return the image with its classes in colour, and a legend of those present beside it.

    Args:
        image: RGB, uint8 `(H, W, 3)`.
        labels: class ids `(H, W)`; those without a colour stay uncoloured.
        class_names: one a class.
        palette: one RGB colour a class.
        opacity: of the colours, 0 to 1.

    Raises:
        ValueError: if the sizes of image and labels differ.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"overlay: expected labels of {image.shape[:2]}, got {labels.shape}")
    known = labels < len(palette)
    coloured = np.array(palette, np.uint8).reshape(-1, 3)[np.where(known, labels, 0)]
    coloured[~known] = image[~known]
    blended = np.asarray(cv2.addWeighted(image, 1 - opacity, coloured, opacity, 0), np.uint8)
    shares = class_shares(labels, len(palette))
    entries = [
        LegendEntry(class_names[index], palette[index], float(shares[index]))
        for index in np.argsort(-shares, kind="stable")
        if shares[index] > 0
    ]
    if len(entries) > _MOST_ENTRIES:
        rest = entries[_MOST_ENTRIES - 1 :]
        share = sum(entry.share for entry in rest)
        entries[_MOST_ENTRIES - 1 :] = [LegendEntry(f"{len(rest)} more", (255, 255, 255), share)]
    return attach_legend(blended, entries)


def attach_legend(image: Image, entries: Sequence[LegendEntry]) -> Image:
    """Return the image with a legend to its right, on white, in as many columns as it takes."""
    style = _LegendStyle(image.shape[0])
    rows = max(1, (max(image.shape[0], style.least_height) - 2 * style.margin) // style.row)
    columns = [entries[start : start + rows] for start in range(0, len(entries), rows)]
    widths = [style.column_width(column) for column in columns]
    height = max(image.shape[0], min(len(entries), rows) * style.row + 2 * style.margin)
    canvas = np.full((height, image.shape[1] + sum(widths) + style.margin, 3), 255, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    left = image.shape[1] + style.margin
    for column, width in zip(columns, widths, strict=True):
        for index, entry in enumerate(column):
            style.draw(canvas, entry, left, style.margin + index * style.row, width - style.margin)
        left += width
    return canvas


class _LegendStyle:
    """Measures and draws legend rows; they grow with the image, within what reads well."""

    font = cv2.FONT_HERSHEY_SIMPLEX
    text_colour = (45, 45, 45)
    share_colour = (120, 120, 120)
    least_height = 120

    def __init__(self, image_height: int) -> None:
        self.scale = float(np.clip(image_height / 1000, 0.45, 1.2))
        self.row = round(46 * self.scale)
        self.margin = round(28 * self.scale)
        self.swatch = round(26 * self.scale)

    def column_width(self, entries: Sequence[LegendEntry]) -> int:
        """Return the width of swatch, longest name and share, with its margin."""
        names = max(self._text_width(entry.name) for entry in entries)
        shares = max(self._text_width(_format_share(entry.share)) for entry in entries)
        return self.swatch + names + shares + round(1.6 * self.swatch) + self.margin

    def draw(self, canvas: Image, entry: LegendEntry, left: int, top: int, width: int) -> None:
        """Draw one row: a swatch, the name, and the share flush right."""
        middle = top + self.row // 2
        upper, half = middle - self.swatch // 2, self.swatch
        box = ((left, upper), (left + half, upper + half))
        cv2.rectangle(canvas, *box, entry.colour, cv2.FILLED)
        cv2.rectangle(canvas, *box, (150, 150, 150), 1, cv2.LINE_AA)
        baseline = middle + round(11 * self.scale)
        self._write(canvas, entry.name, left + round(1.5 * half), baseline, self.text_colour)
        share = _format_share(entry.share)
        right = left + width - self._text_width(share)
        self._write(canvas, share, right, baseline, self.share_colour)

    def _write(self, canvas: Image, text: str, left: int, baseline: int, colour: Rgb) -> None:
        cv2.putText(canvas, text, (left, baseline), self.font, self.scale, colour, 1, cv2.LINE_AA)

    def _text_width(self, text: str) -> int:
        (width, _), _ = cv2.getTextSize(text, self.font, self.scale, 1)
        return int(width)


def _format_share(share: float) -> str:
    return "<0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def _is_complete(data: bytes) -> bool:
    """Return whether a PNG or JPEG has its end; decoders fill what is missing without a word."""
    if data.startswith(_PNG_START):
        return _PNG_END in data
    if not data.startswith(b"\xff\xd8"):
        return True
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _JPEG_END:
            return True
        if marker == 0xFF or 0xD0 <= marker <= 0xD7 or marker == 0x01:  # fill, or no length
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
        if marker == _JPEG_SCAN:
            following = _JPEG_MARKER.search(data, position)
            if following is None:
                return False
            position = following.start()
    return data[position : position + 2] == b"\xff\xd9"


def _expand_glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    root = Path(path.anchor) if path.anchor else Path()
    relative = str(path.relative_to(path.anchor)) if path.anchor else pattern
    return list(root.glob(relative))


def _with_image_suffix(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
