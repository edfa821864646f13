"""ADE20K as the scene parsing challenge of 2016 released it, 150 classes.

`ADEChallengeData2016/{images,annotations}/{training,validation}`, `.jpg` and grey `.png`, 0 for
what has no class.

Source: Zhou et al., Scene Parsing through ADE20K Dataset (CVPR 2017).
"""

from __future__ import annotations

from pathlib import Path

from segvit.classes import published_classes
from segvit.datasets.folder import FolderDataset
from segvit.datasets.pairing import check_split, find_folder, pair_folders

ADE20K_IMAGES = {"train": 20_210, "val": 2_000}  # as published
_FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(root: Path, split: str) -> FolderDataset:
    """Return a split of ADE20K.

    Args:
        root: `ADEChallengeData2016`, or the folder that holds it.
        split: `train` or `val`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if the split is unknown, or images and masks do not pair.
    """
    check_split("ade20k", split)
    folders = [f"{kind}/{_FOLDERS[split]}" for kind in ("images", "annotations")]
    found = find_folder("ade20k", root, ["ADEChallengeData2016"], folders)
    names, palette = published_classes("ade20k")
    images, masks = (found / path for path in folders)
    samples = pair_folders(f"data set 'ade20k' {split}", images, masks)
    return FolderDataset(samples, names, palette, reduce_zero_label=True)
