"""COCO-Stuff 10K as released to the layout that `segvit.datasets.coco_stuff` opens.

The release has `images/<stem>.jpg`, `annotations/<stem>.mat` with the map `S` and
`imageLists/{train,test}.txt`. Ids: 0 unlabelled, 1 to 91 things in COCO's order, of which 11 were
never annotated, 92 to 182 stuff.

Source: Caesar et al., COCO-Stuff (arXiv 1612.03716); release 1.1.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segvit.atomic import replace_file
from segvit.datasets.coco_stuff import COCO_STUFF10K_FOLDERS, MASK_ENDING, find_list
from segvit.datasets.conversion import (
    UNKNOWN,
    Mask,
    MaskJob,
    Prepared,
    map_ids,
    read_mat,
    write_masks,
)
from segvit.datasets.pairing import count_names, find_folder, read_list

_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_LAST_ID = 182
_EXPECTED = "0 to 182 without the 11 that COCO never annotated; give the annotations of release 1.1"


class _Entry(NamedTuple):
    """An image of a list: the release's files and those of the layout."""

    raw_image: Path
    raw_mask: Path
    image: Path
    mask: Path


def prepare_coco_stuff10k(root: Path, workers: int, progress: bool) -> Prepared:
    """Make masks of train ids, and put the images beside them, inside `root`.

    Images are linked, or copied where the disk has no links; the release's files stay as they are.

    Raises:
        FileNotFoundError: if a folder or a list is missing.
        ValueError: if a list names files that are not there, or an annotation is damaged.
    """
    found = find_folder("coco_stuff10k", root, ["coco_stuff10k"], ["images", "annotations"])
    entries = _find_entries(found)
    jobs = [MaskJob(entry.mask, partial(_convert, entry.raw_mask)) for entry in entries]
    written, skipped = write_masks(jobs, workers, progress)
    bar = tqdm(entries, unit="image", disable=not progress)
    placed = Counter(_place_image(entry.raw_image, entry.image) for entry in bar)
    return Prepared(
        f"{found / 'annotations'}/*.mat",
        written,
        skipped,
        images_linked=placed["linked"],
        images_copied=placed["copied"],
        images_skipped=placed["skipped"],
    )


def coco_stuff_table() -> NDArray[np.int16]:
    """Return the train id of each of the release's ids, `(183,)`; `UNKNOWN` where unused."""
    table = np.full(_LAST_ID + 1, UNKNOWN, np.int16)
    used = np.setdiff1d(np.arange(_LAST_ID + 1), _UNUSED_IDS)
    table[used] = np.arange(len(used))
    return table


def _convert(path: Path) -> Mask:
    raw = read_mat(path, "S")
    return map_ids(raw, coco_stuff_table(), f"annotation '{path}'", _EXPECTED)


def _find_entries(root: Path) -> list[_Entry]:
    """Return the images of both lists, all of whose files are there, raw or finished."""
    images, masks = root / "images", root / "annotations"
    entries = []
    for split, folder in COCO_STUFF10K_FOLDERS.items():
        source = find_list(root, split)
        if source is None:
            raise FileNotFoundError(
                2,
                "data set 'coco_stuff10k': expected imageLists/train.txt and imageLists/test.txt, "
                f"found no list of {split}; copy the release's lists",
                str(root),
            )
        entries += [
            _Entry(
                images / f"{stem}.jpg",
                masks / f"{stem}.mat",
                images / folder / f"{stem}.jpg",
                masks / folder / f"{stem}{MASK_ENDING}",
            )
            for stem in read_list(source)
        ]
    bare = [e.raw_mask.name for e in entries if not (e.mask.is_file() or e.raw_mask.is_file())]
    gone = [e.image.name for e in entries if not (e.image.is_file() or e.raw_image.is_file())]
    if bare or gone or not entries:
        raise ValueError(
            f"data set 'coco_stuff10k': the lists name {len(entries)} images; not in '{images}': "
            f"{count_names(gone)}, without an annotation in '{masks}': {count_names(bare)}; copy "
            "what is missing, or take it off the lists"
        )
    return entries


def _place_image(source: Path, target: Path) -> str:
    """Link or copy an image to its split's folder; return which was done."""
    if target.is_file():
        return "skipped"
    with replace_file(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            # Of a symbolic link the file it leads to: a link to the link could lead nowhere.
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            return "copied"
    return "linked"
