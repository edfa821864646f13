"""`segvit.datasets.ade20k`: the layout, the classes, and what it says of half a copy."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from segvit.datasets.ade20k import open_ade20k
from tests.dataset_layouts import write_ade20k


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return write_ade20k(tmp_path)


def test_both_splits_open_from_the_folder_and_from_above(top: Path, tmp_path: Path) -> None:
    for root in (top, tmp_path):
        train, val = open_ade20k(root, "train"), open_ade20k(root, "val")
        assert (len(train), len(val)) == (4, 2)
        assert [sample.image.stem for sample in train.samples][:2] == [
            "ADE_train_00000001", "ADE_train_00000002",
        ]  # fmt: skip
        assert all(sample.image.stem == sample.mask.stem for sample in val.samples)


def test_the_classes_are_the_published_ones(top: Path) -> None:
    data = open_ade20k(top, "val")
    assert len(data.class_names) == len(data.palette) == 150
    assert (data.class_names[0], data.class_names[7], data.class_names[-1]) == (
        "wall", "bed", "flag",
    )  # fmt: skip
    assert data.palette[2] == (6, 230, 230)
    assert data.palette[-1] == (92, 0, 255)


def test_zero_is_ignored_and_every_class_is_read(top: Path) -> None:
    image, mask = next(iter(open_ade20k(top, "train")))
    assert image.shape == (72, 96, 3)
    assert np.unique(mask).tolist() == [*range(150), 255]
    assert mask[0, 0] == 255
    assert mask[0, 6] == 0


def test_files_of_a_file_manager_are_passed_over(top: Path) -> None:
    (top / "images" / "training" / "._ADE_train_00000001.jpg").write_bytes(b"x")
    (top / "annotations" / "training" / ".DS_Store").write_bytes(b"x")
    assert len(open_ade20k(top, "train")) == 4


def test_a_missing_folder_is_named(top: Path, tmp_path: Path) -> None:
    shutil.rmtree(top / "annotations" / "validation")
    message = (
        r"data set 'ade20k': expected the folders images/validation, annotations/validation \(or "
        r"in ADEChallengeData2016/\), found 1 of 2, missing: annotations/validation; copy them"
    )
    with pytest.raises(FileNotFoundError, match=message):
        open_ade20k(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="found 0 of 2"):
        open_ade20k(tmp_path / "none", "train")


def test_files_without_their_other_half_are_counted(top: Path) -> None:
    for number in (1, 3):
        (top / "annotations" / "training" / f"ADE_train_{number:08}.png").unlink()
    (top / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    message = (
        r"data set 'ade20k' train: found 3 images in .* and 2 masks in .*; without a mask: 2 "
        r"\(first: ADE_train_00000001.jpg, ADE_train_00000003.jpg\), without an image: 1 \(first: "
        r"ADE_train_00000002.png\); copy what is missing"
    )
    with pytest.raises(ValueError, match=message):
        open_ade20k(top, "train")


def test_a_folder_without_images(top: Path) -> None:
    for path in (top / "images" / "validation").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"'ade20k' val: expected images in .* and 2 masks in"):
        open_ade20k(top, "val")


def test_an_unknown_split(top: Path) -> None:
    with pytest.raises(ValueError, match="split 'test' is unknown; expected one of: train, val"):
        open_ade20k(top, "test")
