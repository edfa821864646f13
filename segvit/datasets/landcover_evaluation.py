"""The land-cover protocol: overlapping tiles of every block with land, scores averaged.

Shapes: `B` batch, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segvit.datasets.landcover import (
    NUM_CLASSES,
    TILE,
    Block,
    Image,
    LandCover,
    read_tile,
    tile_origins,
)
from segvit.metrics import ConfusionMatrix

Scores = NDArray[np.float32]
Predict = Callable[[Image], Scores]


def evaluate_landcover(
    predict: Predict, data: LandCover, split: str, batch_size: int = 16, progress: bool = True
) -> ConfusionMatrix:
    """Return the confusion matrix of a split, at source resolution.

    Args:
        predict: uint8 images `(B, 256, 256, 3)` to scores `(B, K, 256, 256)`.
        data: the map.
        split: `val` or `test`.
        batch_size: tiles a call.
        progress: show a bar.
    """
    matrix = ConfusionMatrix(NUM_CLASSES)
    blocks = data.land_blocks(split)
    for block in tqdm(
        blocks, desc=f"evaluate {split}", unit="block", disable=not progress, leave=False
    ):
        scores = _score_block(predict, data, block, batch_size)
        matrix.update(scores.argmax(axis=0), data.crop(block)[1])
    return matrix


def _score_block(predict: Predict, data: LandCover, block: Block, batch_size: int) -> Scores:
    """Return the scores of a block, summed where tiles overlap, `(K, height, width)`."""
    image, _ = data.crop(block)
    total = np.zeros((NUM_CLASSES, block.height, block.width), dtype=np.float32)
    count = np.zeros((block.height, block.width), dtype=np.float32)
    origins = list(tile_origins(block))
    for start in range(0, len(origins), batch_size):
        part = origins[start : start + batch_size]
        tiles = [read_tile(image[top : top + TILE, left : left + TILE]) for top, left in part]
        for (top, left), scores in zip(part, predict(np.stack(tiles)), strict=True):
            shrunk = cv2.resize(
                scores.transpose(1, 2, 0), (TILE, TILE), interpolation=cv2.INTER_AREA
            )
            total[:, top : top + TILE, left : left + TILE] += shrunk.transpose(2, 0, 1)
            count[top : top + TILE, left : left + TILE] += 1
    averaged: Scores = total / count
    return averaged
