"""`segvit.datasets.coco_stuff`: the prepared layout, its lists, and half a copy of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from segvit.datasets.coco_stuff import open_coco_stuff10k
from tests.dataset_layouts import write_coco_stuff10k


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return write_coco_stuff10k(tmp_path)


def test_both_splits_open_from_the_folder_and_from_above(top: Path, tmp_path: Path) -> None:
    for root in (top, tmp_path):
        assert len(open_coco_stuff10k(root, "train")) == 4
        val = open_coco_stuff10k(root, "val")
        assert [(sample.image.name, sample.mask.name) for sample in val.samples] == [
            (f"COCO_train2014_{n:012}.jpg", f"COCO_train2014_{n:012}_labelTrainIds.png")
            for n in (500, 501)
        ]
        assert {sample.image.parent.name for sample in val.samples} == {"test2014"}


def test_the_classes_are_the_published_ones(top: Path) -> None:
    data = open_coco_stuff10k(top, "val")
    assert len(data.class_names) == len(data.palette) == 171
    names = [data.class_names[index] for index in (0, 11, 79, 80, 170)]
    assert names == ["person", "stop sign", "toothbrush", "banner", "wood"]
    assert data.palette[-1] == (64, 64, 0)


def test_zero_is_ignored_and_every_class_is_read(top: Path) -> None:
    _, mask = next(iter(open_coco_stuff10k(top, "train")))
    assert np.unique(mask).tolist() == [*range(171), 255]


@pytest.mark.parametrize("folder", ["imagesLists", "imageLists"])
def test_the_list_chooses_under_either_name(top: Path, folder: str) -> None:
    (top / "imagesLists").rename(top / folder)
    (top / folder / "train.txt").write_text(
        "COCO_train2014_000000000003\nCOCO_train2014_000000000001.jpg\n\n"
        "COCO_train2014_000000000003\n"
    )
    data = open_coco_stuff10k(top, "train")
    assert [sample.image.stem[-1] for sample in data.samples] == ["3", "1"]


def test_without_a_list_all_that_is_there(top: Path) -> None:
    shutil.rmtree(top / "imagesLists")
    assert len(open_coco_stuff10k(top, "train")) == 4
    (top / "images" / "train2014" / "COCO_train2014_000000000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"without an image: 1 \(first: .*1_labelTrainIds\.png\)"):
        open_coco_stuff10k(top, "train")


def test_a_list_of_files_that_are_not_there(top: Path) -> None:
    (top / "images" / "test2014" / "COCO_train2014_000000000500.jpg").unlink()
    for path in (top / "annotations" / "test2014").iterdir():
        path.unlink()
    message = (
        r"data set 'coco_stuff10k' val: '.*test\.txt' names 2 images; not in '.*test2014': 1 "
        r"\(first: COCO_train2014_000000000500\.jpg\), without a mask in '.*': 2 \(first: "
        r"COCO_train2014_000000000500_labelTrainIds\.png, .*; copy what is missing.*"
        r"python -m segvit\.datasets\.prepare coco_stuff10k --root DIR"
    )
    with pytest.raises(ValueError, match=message):
        open_coco_stuff10k(top, "val")


def test_an_empty_list(top: Path) -> None:
    (top / "imagesLists" / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"'.*test\.txt' names no images; copy the published"):
        open_coco_stuff10k(top, "val")


def test_raw_data_lead_to_the_preparation(top: Path) -> None:
    shutil.rmtree(top / "annotations" / "train2014")
    message = r"found 1 of 2, missing: annotations/train2014; .*segvit\.datasets\.prepare coco_"
    with pytest.raises(FileNotFoundError, match=message):
        open_coco_stuff10k(top, "train")


def test_an_unknown_split(top: Path) -> None:
    with pytest.raises(ValueError, match="'coco_stuff10k': split 'test' is unknown"):
        open_coco_stuff10k(top, "test")
