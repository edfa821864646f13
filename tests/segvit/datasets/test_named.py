"""`segvit.datasets.named`: every data set by its name, and how large it was published."""

import subprocess
import sys
from pathlib import Path

import pytest

from segvit.datasets.named import DATASET_NAMES, open_dataset, published_count, subset_note
from tests.dataset_layouts import write_ade20k, write_coco_stuff10k, write_pascal_context

CLASSES = {"ade20k": 150, "coco_stuff10k": 171, "pascal_context": 60, "pascal_context_59": 59}


def test_every_name_opens(tmp_path: Path) -> None:
    for write in (write_ade20k, write_coco_stuff10k, write_pascal_context):
        write(tmp_path, train=3, val=2)
    assert list(CLASSES) == list(DATASET_NAMES)
    for name, classes in CLASSES.items():
        for split, count in (("train", 3), ("val", 2)):
            data = open_dataset(name, tmp_path, split)
            assert len(list(data)) == count
            assert len(data.class_names) == classes


def test_the_published_sizes() -> None:
    assert [(published_count(n, "train"), published_count(n, "val")) for n in DATASET_NAMES] == [
        (20210, 2000), (9000, 1000), (4996, 5104), (4996, 5104),
    ]  # fmt: skip


def test_a_smaller_split_is_noted() -> None:
    assert (
        subset_note("ade20k", "val", 12) == "data set 'ade20k' val: 12 of the published 2000 images"
    )
    assert subset_note("ade20k", "val", 2000) is None
    assert subset_note("pascal_context", "train", 4998) is None


def test_unknown_names_and_splits(tmp_path: Path) -> None:
    message = "data set 'cityscapes' is unknown; expected one of: ade20k, coco_stuff10k, pascal"
    with pytest.raises(ValueError, match=message):
        open_dataset("cityscapes", tmp_path, "val")
    with pytest.raises(ValueError, match=message):
        published_count("cityscapes", "val")
    with pytest.raises(ValueError, match="'ade20k': split 'test' is unknown"):
        published_count("ade20k", "test")


def test_neither_torch_nor_scipy_is_needed() -> None:
    code = (
        "import sys; import segvit.datasets.named, segvit.datasets.prepare\n"
        "print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
