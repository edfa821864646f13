"""PASCAL-Context with 60 classes, or 59 where the background is ignored.

`VOC2010` with `JPEGImages/<stem>.jpg`, `SegmentationClassContext/<stem>.png` and the lists
`ImageSets/SegmentationContext/{train,val}.txt`, or else the split of `trainval_merged.json`: half
a gigabyte to read each time. `segvit.datasets.prepare` makes masks and lists of what was released.

Source: Mottaghi et al., The Role of Context (CVPR 2014): 4,998 and 5,105 images; the later
`trainval_merged.json`, whose split mmsegmentation uses, has 4,996 and 5,104.
"""

from __future__ import annotations

from pathlib import Path

from segvit.classes import published_classes
from segvit.datasets.folder import FolderDataset
from segvit.datasets.pairing import check_split, find_folder, pair_listed, read_list
from segvit.datasets.pascal_detail import read_detail

PASCAL_CONTEXT_IMAGES = {"train": 4_996, "val": 5_104}  # of trainval_merged.json
DETAIL_FILE = "trainval_merged.json"
LIST_FOLDER = "ImageSets/SegmentationContext"
MASK_FOLDER = "SegmentationClassContext"
_FIX = (
    "; raw annotations first go through python -m segvit.datasets.prepare pascal_context --root DIR"
)


def open_pascal_context(root: Path, split: str) -> FolderDataset:
    """Return a split with 60 classes, the background first.

    Args:
        root: `VOC2010`, `VOCdevkit`, or the folder that holds the latter.
        split: `train` or `val`.

    Raises:
        FileNotFoundError: if a folder, or the list of the split, is missing.
        ValueError: if the split is unknown, or its list names files that are not there.
    """
    return _open("pascal_context", root, split, ignore_background=False)


def open_pascal_context_59(root: Path, split: str) -> FolderDataset:
    """Return a split with 59 classes, the background ignored; see `open_pascal_context`."""
    return _open("pascal_context_59", root, split, ignore_background=True)


def find_voc(dataset: str, root: Path, needed: tuple[str, ...] = ()) -> Path:
    """Return `VOC2010`, whether `root` is it, `VOCdevkit` or the folder above.

    Raises:
        FileNotFoundError: if `JPEGImages`, or a folder of `needed`, is in none of them.
    """
    inner = ["VOC2010", "VOCdevkit/VOC2010"]
    return find_folder(dataset, root, inner, ["JPEGImages", *needed], _FIX if needed else "")


def _open(dataset: str, root: Path, split: str, ignore_background: bool) -> FolderDataset:
    check_split(dataset, split)
    voc = find_voc(dataset, root, (MASK_FOLDER,))
    source, stems = _read_split(dataset, voc, split)
    folders = voc / "JPEGImages", voc / MASK_FOLDER
    samples = pair_listed(f"data set '{dataset}' {split}", source, stems, folders, fix=_FIX)
    names, palette = published_classes("pascal_context")
    first = 1 if ignore_background else 0
    return FolderDataset(samples, names[first:], palette[first:], ignore_background)


def _read_split(dataset: str, voc: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """Return the stems of a split, and the file that lists them."""
    listed, detail = voc / LIST_FOLDER / f"{split}.txt", voc / DETAIL_FILE
    if listed.is_file():
        return listed, read_list(listed)
    if detail.is_file():
        return detail, read_detail(detail).stems(split)
    raise FileNotFoundError(
        2,
        f"data set '{dataset}': expected the list {LIST_FOLDER}/{split}.txt or {DETAIL_FILE}, "
        f"found neither; copy one of them{_FIX}",
        str(voc),
    )
