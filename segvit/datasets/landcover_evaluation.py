"""Land cover's two protocols: overlapping tiles of every block with land, and sliding windows.

Shapes: `B` batch, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from segvit.classes import Rgb
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import (
    NUM_CLASSES,
    TILE,
    TILE_PIXELS,
    Block,
    LandCover,
    read_tile,
    tile_origins,
)
from segvit.evaluation import Labelled
from segvit.images import Image, resize_image
from segvit.inference import Predict, Protocol, Scores, label_image
from segvit.metrics import IGNORE_LABEL

SCALE = TILE_PIXELS // TILE


class _LandCoverEvaluation:
    """What both protocols share: the map's classes."""

    class_names: tuple[str, ...] = tuple(name for name, _ in LANDCOVER_CLASSES)
    palette: tuple[Rgb, ...] = tuple(colour for _, colour in LANDCOVER_CLASSES)

    def __init__(self, split: str) -> None:
        self.split = split

    @cached_property
    def map(self) -> LandCover:
        """The map; read where it is used, since a process need not send it to another."""
        return LandCover()

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state.pop("map", None)
        return state


class LandCoverTiles(_LandCoverEvaluation):
    """The protocol of the shipped models' figures: tiles, at source resolution.

    A sample is a block; scores are averaged where its tiles overlap.

    Args:
        split: `val` or `test`.
        batch_size: tiles a call.
    """

    def __init__(self, split: str, batch_size: int = 16) -> None:
        super().__init__(split)
        self.batch_size = batch_size

    @cached_property
    def _blocks(self) -> list[Block]:
        return self.map.land_blocks(self.split)

    def __len__(self) -> int:
        return len(self._blocks)

    def name(self, index: int) -> str:
        """Return where a block is, in source pixels."""
        return f"row{self._blocks[index].top}-column{self._blocks[index].left}"

    def label(self, predict: Predict, index: int) -> Labelled:
        """Return a block labelled by a model of 256-px crops; see `EvaluationData`."""
        block = self._blocks[index]
        image, truth = self.map.crop(block)
        return Labelled(image, self._score_block(predict, image, block).argmax(axis=0), truth)

    def _score_block(self, predict: Predict, image: Image, block: Block) -> Scores:
        """Return the scores of a block, averaged where tiles overlap, `(K, height, width)`."""
        total = np.zeros((NUM_CLASSES, block.height, block.width), dtype=np.float32)
        count = np.zeros((block.height, block.width), dtype=np.float32)
        origins = list(tile_origins(block))
        for start in range(0, len(origins), self.batch_size):
            part = origins[start : start + self.batch_size]
            tiles = [read_tile(image[top : top + TILE, left : left + TILE]) for top, left in part]
            for (top, left), scores in zip(part, predict(np.stack(tiles)), strict=True):
                shrunk = cv2.resize(
                    scores.transpose(1, 2, 0), (TILE, TILE), interpolation=cv2.INTER_AREA
                )
                total[:, top : top + TILE, left : left + TILE] += shrunk.transpose(2, 0, 1)
                count[top : top + TILE, left : left + TILE] += 1
        averaged: Scores = total / count
        return averaged


class LandCoverWindows(_LandCoverEvaluation):
    """The published protocols on square images of the map, read at four pixels a source pixel.

    Images never cross a block; the last of a row or column is moved inside it, and what an earlier
    one has counted is ignored there.

    Args:
        split: `val` or `test`.
        side: pixels of an image, a multiple of four.
        protocol: how an image becomes labels.
        fill: the pixel to pad small images with.

    Raises:
        ValueError: if the side is no such multiple, or larger than the smallest block.
    """

    def __init__(
        self, split: str, side: int, protocol: Protocol, fill: tuple[float, float, float]
    ) -> None:
        super().__init__(split)
        self.side, self.protocol, self.fill = side // SCALE, protocol, fill
        most = min(min(block.height, block.width) for block in self.map.land_blocks(split))
        if side % SCALE or not 0 < self.side <= most:
            raise ValueError(
                f"land-cover images: expected a side of {SCALE} to {most * SCALE} pixels in steps "
                f"of {SCALE}, got {side}"
            )

    @cached_property
    def _areas(self) -> list[tuple[Block, int, int]]:
        """Every image, and how many of its first rows and columns are already counted."""
        found = []
        for block in self.map.land_blocks(self.split):
            for row in range(0, block.height, self.side):
                for column in range(0, block.width, self.side):
                    top = min(row, block.height - self.side)
                    left = min(column, block.width - self.side)
                    area = Block(block.top + top, block.left + left, self.side, self.side)
                    found.append((area, row - top, column - left))
        return found

    def __len__(self) -> int:
        return len(self._areas)

    def name(self, index: int) -> str:
        """Return where an image is, in source pixels."""
        area, _, _ = self._areas[index]
        return f"row{area.top}-column{area.left}"

    def label(self, predict: Predict, index: int) -> Labelled:
        """Return an image labelled by a model; see `EvaluationData`."""
        area, rows, columns = self._areas[index]
        source, labels = self.map.crop(area)
        side = self.side * SCALE
        image = resize_image(source, (side, side))
        truth: NDArray[np.uint8] = labels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        truth[: rows * SCALE], truth[:, : columns * SCALE] = IGNORE_LABEL, IGNORE_LABEL
        return Labelled(image, label_image(predict, image, self.protocol, self.fill), truth)
