"""Small data sets in the layouts of the published ones, prepared and as released.

Every mask is a grid of all the ids a file of its kind may hold; an image has its classes' colours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from segvit.classes import read_classes

Size = tuple[int, int]
Array = NDArray[Any]
_TABLES = Path(__file__).parents[1] / "segvit" / "datasets"
_CELL = 6  # pixels; 72x96 has 192 cells, more than COCO-Stuff has ids
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def write_ade20k(root: Path, train: int = 4, val: int = 2, size: Size = (72, 96)) -> Path:
    """Write `root/ADEChallengeData2016` and return it."""
    top = root / "ADEChallengeData2016"
    for folder, word, count in (("training", "train", train), ("validation", "val", val)):
        for index in range(count):
            mask = id_grid(np.arange(151), size, index)
            stem = f"ADE_{word}_{index + 1:08}"
            write_jpeg(top / "images" / folder / f"{stem}.jpg", mask, "ade20k", first_id=1)
            write_png(top / "annotations" / folder / f"{stem}.png", mask)
    return top


def write_coco_stuff10k(root: Path, train: int = 4, val: int = 2, size: Size = (72, 96)) -> Path:
    """Write `root/coco_stuff10k` as prepared and return it."""
    top = root / "coco_stuff10k"
    for folder, stems in _coco_stems(train, val).items():
        for index, stem in enumerate(stems):
            mask = id_grid(np.arange(172), size, index)
            image = top / "images" / folder / f"{stem}.jpg"
            write_jpeg(image, mask, "coco_stuff10k", first_id=1)
            write_png(top / "annotations" / folder / f"{stem}_labelTrainIds.png", mask)
        write_list(top / "imagesLists" / f"{folder[:-4]}.txt", stems)
    return top


def write_raw_coco_stuff10k(
    root: Path, train: int = 2, val: int = 1, size: Size = (72, 96)
) -> Path:
    """Write `root/coco_stuff10k` as released and return it."""
    top = root / "coco_stuff10k"
    ids = np.setdiff1d(np.arange(183), COCO_UNUSED_IDS)
    for folder, stems in _coco_stems(train, val).items():
        for index, stem in enumerate(stems):
            grid = id_grid(np.arange(172), size, index)
            write_jpeg(top / "images" / f"{stem}.jpg", grid, "coco_stuff10k", first_id=1)
            raw = {
                "S": ids[grid].astype(np.uint8),
                "names": np.array([["unlabeled"], ["person"]], dtype=object),
                "captions": np.array([["a street"]], dtype=object),
                "regionMapStuff": grid.astype(np.uint16),
                "regionLabelsStuff": ids[:, None].astype(np.uint16),
            }
            write_mat(top / "annotations" / f"{stem}.mat", raw)
        write_list(top / "imageLists" / f"{folder[:-4]}.txt", stems)
    return top


def write_pascal_context(root: Path, train: int = 4, val: int = 2, size: Size = (72, 96)) -> Path:
    """Write `root/VOCdevkit/VOC2010` as prepared and return it."""
    top = root / "VOCdevkit" / "VOC2010"
    for split, stems in voc_stems(train, val).items():
        for index, stem in enumerate(stems):
            mask = id_grid(np.arange(60), size, index)
            write_jpeg(top / "JPEGImages" / f"{stem}.jpg", mask, "pascal_context", first_id=0)
            write_png(top / "SegmentationClassContext" / f"{stem}.png", mask)
        write_list(top / "ImageSets" / "SegmentationContext" / f"{split}.txt", stems)
    return top


def write_raw_pascal_context(
    root: Path, ids: Sequence[int], train: int = 2, val: int = 1, size: Size = (72, 96)
) -> Path:
    """Write `root/VOCdevkit/VOC2010` with the `.mat` release and VOC's own lists, and return it.

    Args:
        root: where to.
        ids: what the label maps hold.
        train: images of the split.
        val: images of the split.
        size: (height, width) in pixels.
    """
    top = root / "VOCdevkit" / "VOC2010"
    for split, stems in voc_stems(train, val).items():
        for index, stem in enumerate(stems):
            grid = id_grid(np.arange(60), size, index)
            write_jpeg(top / "JPEGImages" / f"{stem}.jpg", grid, "pascal_context", first_id=0)
            raw = {"LabelMap": id_grid(np.array(ids), size, index).astype(np.uint16)}
            write_mat(top / "trainval" / f"{stem}.mat", raw)
        write_list(top / "ImageSets" / "Main" / f"{split}.txt", stems)
    return top


def write_detail(
    path: Path, ids: Sequence[int], train: int = 2, val: int = 1, size: Size = (72, 96)
) -> None:
    """Write a `trainval_merged.json` whose images have a segment for each of `ids`, 0 aside."""
    images, segments = [], []
    for split, stems in {**voc_stems(train, val), "test": ("2009_000009",)}.items():
        for index, stem in enumerate(stems):
            number = int(stem.replace("_", ""))
            images.append(
                {"image_id": number, "file_name": f"{stem}.jpg", "phase": split,
                 "height": size[0], "width": size[1], "date_captured": "31-Jul-2008"}
            )  # fmt: skip
            labels = id_grid(np.array(ids), size, index)
            segments += [
                {"id": len(segments) + place, "image_id": number, "category_id": int(value),
                 "iscrowd": 1, "parts": [],
                 "segmentation": {"size": list(size), "counts": encode_runs(labels == value)}}
                for place, value in enumerate(np.unique(labels[labels > 0]))
            ]  # fmt: skip
    path.write_text(json.dumps({"images": images, "annos_segmentation": segments}))


def encode_runs(mask: Array) -> str:
    """Return COCO's compressed run lengths, a number at a time."""
    flat = np.concatenate(([False], mask.T.reshape(-1)))
    edges = np.flatnonzero(np.diff(flat)).tolist()
    runs = np.diff([0, *edges, mask.size]).tolist()
    text = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(48 + group + 32 * more))
    return "".join(text)


def voc_stems(train: int, val: int) -> dict[str, tuple[str, ...]]:
    """Return the stems of each split."""
    return {
        "train": tuple(f"2008_{index + 1:06}" for index in range(train)),
        "val": tuple(f"2010_{index + 1:06}" for index in range(val)),
    }


def id_grid(ids: Array, size: Size, shift: int) -> Array:
    """Return a map `size` of square cells that run through `ids`, starting at another a `shift`."""
    rows, columns = np.indices(size) // _CELL
    order = rows * -(-size[1] // _CELL) + columns + 7 * shift
    grid: Array = ids[order % len(ids)]
    return grid


def write_jpeg(path: Path, mask: Array, table: str, first_id: int) -> None:
    """Write an image with the colours of a mask's classes; lower ids are white."""
    _, palette = read_classes(_TABLES / f"{table}.csv")
    colours = np.array([(255, 255, 255)] * first_id + list(palette), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), colours[mask][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def write_png(path: Path, mask: Array) -> None:
    """Write a grey PNG of ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask.astype(np.uint8))


def write_mat(path: Path, variables: dict[str, Array]) -> None:
    """Write a MATLAB 5 file, compressed as the releases are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def write_list(path: Path, stems: Sequence[str]) -> None:
    """Write a list of stems, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def _coco_stems(train: int, val: int) -> dict[str, tuple[str, ...]]:
    return {
        "train2014": tuple(f"COCO_train2014_{index + 1:012}" for index in range(train)),
        "test2014": tuple(f"COCO_train2014_{index + 500:012}" for index in range(val)),
    }
