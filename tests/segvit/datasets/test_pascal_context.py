"""`segvit.datasets.pascal_context`: VOC's layout, both sets of classes, lists and JSON."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from segvit.datasets.pascal_context import open_pascal_context, open_pascal_context_59
from tests.dataset_layouts import write_detail, write_pascal_context


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_pascal_context(tmp_path)


def test_both_splits_open_from_each_folder(voc: Path, tmp_path: Path) -> None:
    for root in (voc, voc.parent, tmp_path):
        assert len(open_pascal_context(root, "train")) == 4
        val = open_pascal_context(root, "val")
        assert [sample.mask.name for sample in val.samples] == [
            "2010_000001.png",
            "2010_000002.png",
        ]


def test_the_classes_are_the_published_ones(voc: Path) -> None:
    data, without = open_pascal_context(voc, "val"), open_pascal_context_59(voc, "val")
    assert len(data.class_names) == len(data.palette) == 60
    assert data.class_names[:3] == ("background", "aeroplane", "bag")
    assert data.class_names[-1] == "wood"
    assert (without.class_names, without.palette) == (data.class_names[1:], data.palette[1:])


def test_the_background_is_a_class_or_ignored(voc: Path) -> None:
    image, mask = next(iter(open_pascal_context(voc, "train")))
    _, without = next(iter(open_pascal_context_59(voc, "train")))
    assert image.shape == (72, 96, 3)
    assert np.unique(mask).tolist() == [*range(60)]
    assert np.unique(without).tolist() == [*range(59), 255]
    assert np.array_equal(without == 255, mask == 0)


def test_without_lists_the_split_comes_from_the_json(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    write_detail(voc / "trainval_merged.json", [0, 2], train=3, val=1)
    data = open_pascal_context(voc, "train")
    assert [sample.image.stem for sample in data.samples] == [
        "2008_000001", "2008_000002", "2008_000003",
    ]  # fmt: skip
    assert len(open_pascal_context_59(voc, "val")) == 1


@pytest.mark.parametrize("content", ["", '{"images": [{', "[]", "{}", '{"images": [{"phase": 1}]}'])
def test_a_damaged_json(voc: Path, content: str) -> None:
    shutil.rmtree(voc / "ImageSets")
    (voc / "trainval_merged.json").write_text(content)
    with pytest.raises(ValueError, match=r"'.*trainval_merged\.json' is cut off, damaged or no"):
        open_pascal_context(voc, "train")


def test_neither_list_nor_json(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    message = (
        r"data set 'pascal_context_59': expected the list ImageSets/SegmentationContext/val\.txt "
        r"or trainval_merged\.json, found neither"
    )
    with pytest.raises(FileNotFoundError, match=message):
        open_pascal_context_59(voc, "val")


def test_missing_masks_lead_to_the_preparation(voc: Path, tmp_path: Path) -> None:
    (voc / "SegmentationClassContext" / "2010_000002.png").unlink()
    message = (
        r"'pascal_context' val: '.*val\.txt' names 2 images; not in '.*JPEGImages': 0, without a "
        r"mask in '.*': 1 \(first: 2010_000002\.png\); .*prepare pascal_context --root DIR"
    )
    with pytest.raises(ValueError, match=message):
        open_pascal_context(voc, "val")
    shutil.rmtree(voc / "SegmentationClassContext")
    message = r"found 1 of 2, missing: SegmentationClassContext; .*prepare pascal_context"
    with pytest.raises(FileNotFoundError, match=message):
        open_pascal_context(tmp_path, "val")


def test_an_unknown_split(voc: Path) -> None:
    with pytest.raises(ValueError, match="'pascal_context': split 'trainval' is unknown"):
        open_pascal_context(voc, "trainval")
