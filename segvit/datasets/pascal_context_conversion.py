"""PASCAL-Context as released to the masks and lists that `segvit.datasets.pascal_context` opens.

Two releases say what is in the VOC 2010 images: `trainval_merged.json`, of which mmsegmentation
and the published numbers make their masks, and the older `trainval/<stem>.mat` with `LabelMap`.
They differ in places, so that the former is taken where both are there. Both number 459 names in
alphabetical order from 1 on; 59 of them are classes, the rest is background.

Source: Mottaghi et al., The Role of Context (CVPR 2014), `labels.txt` and `59_labels.txt`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segvit.atomic import write_bytes
from segvit.datasets.conversion import (
    UNKNOWN,
    Mask,
    MaskJob,
    Prepared,
    map_ids,
    read_mat,
    write_masks,
)
from segvit.datasets.pairing import SPLITS, read_list
from segvit.datasets.pascal_context import DETAIL_FILE, LIST_FOLDER, MASK_FOLDER, find_voc
from segvit.datasets.pascal_detail import DetailImage, DetailRelease, read_detail

_MAT_FOLDER = "trainval"
_LAST_ID = 459
# Background, then the 59 classes in the order of their names.
CONTEXT_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


def prepare_pascal_context(root: Path, workers: int, progress: bool) -> Prepared:
    """Make masks of 60 classes, and the lists of the splits where they are missing.

    The lists are those of `trainval_merged.json`, or without it VOC 2010's own, which the older
    release follows.

    Raises:
        FileNotFoundError: if images or annotations are missing.
        ValueError: if an annotation is damaged or holds unknown ids.
    """
    voc = find_voc("pascal_context", root)
    detail = read_detail(voc / DETAIL_FILE) if (voc / DETAIL_FILE).is_file() else None
    masks = voc / MASK_FOLDER
    if detail is not None and detail.has_masks:
        source = str(voc / DETAIL_FILE)
        chosen = [image for image in detail.images if image.phase in SPLITS]
        jobs = [MaskJob(masks / f"{i.stem}.png", partial(_convert_detail, i)) for i in chosen]
    else:
        source = f"{voc / _MAT_FOLDER}/*.mat"
        jobs = [
            MaskJob(masks / f"{path.stem}.png", partial(_convert_mat, path))
            for path in sorted((voc / _MAT_FOLDER).glob("[!.]*.mat"))
        ]
    if not jobs:
        raise FileNotFoundError(
            2,
            f"data set 'pascal_context': expected {DETAIL_FILE} or {_MAT_FOLDER}/*.mat, found no "
            "annotations of train or val in either; copy one of the releases",
            str(voc),
        )
    written, skipped = write_masks(jobs, workers, progress)
    lists = [_write_list(voc, split, detail) for split in SPLITS]
    return Prepared(
        source,
        written,
        skipped,
        lists_written=tuple(path for path, _ in lists if path),
        warnings=tuple(warning for _, warning in lists if warning),
    )


def context_table(others: int) -> NDArray[np.int16]:
    """Return the class of each of the release's ids, `(460,)`, `others` for the unlisted ones."""
    table = np.full(_LAST_ID + 1, others, np.int16)
    table[list(CONTEXT_IDS)] = np.arange(len(CONTEXT_IDS))
    return table


def _convert_mat(path: Path) -> Mask:
    raw = read_mat(path, "LabelMap")
    expected = f"0 to {_LAST_ID}; give the files of the release"
    return map_ids(raw, context_table(others=0), f"annotation '{path}'", expected)


def _convert_detail(image: DetailImage) -> Mask:
    expected = "the 59 that are classes; download the release again"
    subject = f"image '{image.stem}' of {DETAIL_FILE}"
    return map_ids(image.draw_labels(), context_table(others=UNKNOWN), subject, expected)


def _write_list(voc: Path, split: str, detail: DetailRelease | None) -> tuple[str, str]:
    """Write the list of a split unless it is there; return its name, or else a warning."""
    target, published = voc / LIST_FOLDER / f"{split}.txt", voc / "ImageSets/Main" / f"{split}.txt"
    if target.is_file():
        return "", ""
    if detail is not None:
        stems = detail.stems(split)
    elif published.is_file():
        stems = read_list(published)
    else:
        return "", (
            f"no list of {split}: neither {DETAIL_FILE} nor ImageSets/Main/{split}.txt is in "
            f"'{voc}'; copy one of them and run this again"
        )
    write_bytes(target, "".join(f"{stem}\n" for stem in stems).encode())
    return str(target), ""
