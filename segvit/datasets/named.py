"""Published data sets by name, in the layouts that mmsegmentation uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from segvit.datasets.ade20k import ADE20K_IMAGES, open_ade20k
from segvit.datasets.coco_stuff import COCO_STUFF10K_IMAGES, open_coco_stuff10k
from segvit.datasets.folder import FolderDataset
from segvit.datasets.pairing import check_split
from segvit.datasets.pascal_context import (
    PASCAL_CONTEXT_IMAGES,
    open_pascal_context,
    open_pascal_context_59,
)


class _Published(NamedTuple):
    """How to open a data set, and how many images each split was published with."""

    open: Callable[[Path, str], FolderDataset]
    images: Mapping[str, int]


_DATASETS = {
    "ade20k": _Published(open_ade20k, ADE20K_IMAGES),
    "coco_stuff10k": _Published(open_coco_stuff10k, COCO_STUFF10K_IMAGES),
    "pascal_context": _Published(open_pascal_context, PASCAL_CONTEXT_IMAGES),
    "pascal_context_59": _Published(open_pascal_context_59, PASCAL_CONTEXT_IMAGES),
}
DATASET_NAMES = tuple(_DATASETS)


def open_dataset(name: str, root: Path, split: str) -> FolderDataset:
    """Return a split, of any size, of a published data set.

    Args:
        name: one of `DATASET_NAMES`.
        root: the folder its layout begins in, or one above; see the module of each.
        split: `train` or `val`.

    Raises:
        FileNotFoundError: if a folder or list is missing.
        ValueError: if name or split is unknown, or images and masks do not pair.
    """
    return _find(name).open(root, split)


def published_count(name: str, split: str) -> int:
    """Return how many images the split was published with.

    Raises:
        ValueError: if name or split is unknown.
    """
    published = _find(name)
    check_split(name, split)
    return published.images[split]


def subset_note(name: str, split: str, count: int) -> str | None:
    """Return a line that says a split is smaller than the published one, None if it is not.

    Raises:
        ValueError: if name or split is unknown.
    """
    published = published_count(name, split)
    if count >= published:
        return None
    return f"data set '{name}' {split}: {count} of the published {published} images"


def _find(name: str) -> _Published:
    if name not in _DATASETS:
        raise ValueError(
            f"data set '{name}' is unknown; expected one of: {', '.join(DATASET_NAMES)}"
        )
    return _DATASETS[name]
