"""COCO-Stuff 10K, 171 classes, with masks of train ids: 0 for what has no class, then 1 to 171.

`images/{train2014,test2014}/<stem>.jpg`, `annotations/…/<stem>_labelTrainIds.png` likewise and the
lists `imagesLists/{train,test}.txt`. `segvit.datasets.prepare` makes it of the release.

Source: Caesar et al., COCO-Stuff (arXiv 1612.03716); release 1.1.
"""

from __future__ import annotations

from pathlib import Path

from segvit.classes import published_classes
from segvit.datasets.folder import FolderDataset
from segvit.datasets.pairing import (
    check_split,
    find_folder,
    pair_folders,
    pair_listed,
    read_list,
)

COCO_STUFF10K_IMAGES = {"train": 9_000, "val": 1_000}  # as published
COCO_STUFF10K_FOLDERS = {"train": "train2014", "val": "test2014"}
MASK_ENDING = "_labelTrainIds.png"
_LISTS = {"train": "train.txt", "val": "test.txt"}
_LIST_FOLDERS = ("imagesLists", "imageLists")  # mmsegmentation's spelling, the release's
_FIX = (
    "; raw annotations (.mat) first go through "
    "python -m segvit.datasets.prepare coco_stuff10k --root DIR"
)


def open_coco_stuff10k(root: Path, split: str) -> FolderDataset:
    """Return a split of COCO-Stuff 10K: what its list names, or without a list what is there.

    Args:
        root: `coco_stuff10k`, or the folder that holds it.
        split: `train`, or `val` for the published test list.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if the split is unknown, or images and masks do not pair.
    """
    check_split("coco_stuff10k", split)
    folders = [f"{kind}/{COCO_STUFF10K_FOLDERS[split]}" for kind in ("images", "annotations")]
    found = find_folder("coco_stuff10k", root, ["coco_stuff10k"], folders, _FIX)
    subject = f"data set 'coco_stuff10k' {split}"
    images, masks = (found / path for path in folders)
    source = find_list(found, split)
    if source is None:
        samples = pair_folders(subject, images, masks, MASK_ENDING)
    else:
        stems = read_list(source)
        samples = pair_listed(subject, source, stems, (images, masks), MASK_ENDING, _FIX)
    names, palette = published_classes("coco_stuff10k")
    return FolderDataset(samples, names, palette, reduce_zero_label=True)


def find_list(root: Path, split: str) -> Path | None:
    """Return the file that lists a split's stems, None if there is none."""
    paths = (root / folder / _LISTS[split] for folder in _LIST_FOLDERS)
    return next((path for path in paths if path.is_file()), None)
