"""`python -m segvit.datasets.prepare`: raw annotations, value by value, and interrupted runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segvit.cli import describe_error
from segvit.datasets.coco_stuff_conversion import coco_stuff_table
from segvit.datasets.named import open_dataset
from segvit.datasets.pascal_context_conversion import CONTEXT_IDS, context_table
from segvit.datasets.prepare import main
from tests.dataset_layouts import (
    COCO_UNUSED_IDS,
    Array,
    id_grid,
    write_detail,
    write_list,
    write_mat,
    write_raw_coco_stuff10k,
    write_raw_pascal_context,
)

# Of the releases' own lists of names.
COCO_TRAIN_IDS = {
    0: 0, 1: 1, 11: 11, 13: 12, 25: 24, 27: 25, 28: 26, 31: 27, 44: 40, 46: 41, 65: 60, 67: 61,
    70: 62, 72: 63, 82: 73, 84: 74, 90: 80, 92: 81, 100: 89, 182: 171,
}  # fmt: skip
CONTEXT_NAMES = {
    2: "aeroplane", 9: "bag", 19: "bedclothes", 59: "car", 104: "cup", 144: "fence",
    258: "motorbike", 284: "person", 308: "pottedplant", 397: "table", 427: "tvmonitor",
    445: "water", 458: "wood",
}  # fmt: skip


def prepare(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def read(path: Path) -> Array:
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    return stored


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_raw_coco_stuff10k(tmp_path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_raw_pascal_context(tmp_path, range(460), size=(120, 150))


def test_train_ids_skip_what_coco_never_annotated() -> None:
    table = coco_stuff_table()
    assert len(table) == 183
    assert {raw: int(table[raw]) for raw in COCO_TRAIN_IDS} == COCO_TRAIN_IDS
    assert np.flatnonzero(table == -1).tolist() == list(COCO_UNUSED_IDS)
    assert table[table >= 0].tolist() == [*range(172)]


def test_context_ids_follow_the_names(voc: Path) -> None:
    prepare("pascal_context", "--root", voc)
    names = open_dataset("pascal_context", voc, "val").class_names
    table = context_table(others=0)
    assert {raw: names[table[raw]] for raw in CONTEXT_NAMES} == CONTEXT_NAMES
    assert len(table) == 460
    assert np.count_nonzero(table) == 59
    assert list(CONTEXT_IDS) == sorted(set(CONTEXT_IDS))


def test_coco_stuff_is_converted_value_by_value(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("coco_stuff10k", "--root", coco)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        "coco_stuff10k: 3 masks written, 0 already there; images: 3 linked, 0 copied, 0 already "
        "there"
    )
    for folder, stem, shift in (
        ("train2014", "COCO_train2014_000000000002", 1),
        ("test2014", "COCO_train2014_000000000500", 0),
    ):
        mask = read(coco / "annotations" / folder / f"{stem}_labelTrainIds.png")
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, id_grid(np.arange(172), (72, 96), shift))
    for split, count in (("train", 2), ("val", 1)):
        data = open_dataset("coco_stuff10k", coco, split)
        assert [np.unique(mask).tolist() for _, mask in data] == [[*range(171), 255]] * count


def test_the_released_images_stay_and_are_linked(coco: Path) -> None:
    prepare("coco_stuff10k", "--root", coco)
    raw = coco / "images" / "COCO_train2014_000000000001.jpg"
    assert raw.samefile(coco / "images" / "train2014" / raw.name)


def test_images_are_copied_where_linking_fails(
    coco: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link", str(source))

    monkeypatch.setattr(os, "link", refuse)
    prepare("coco_stuff10k", "--root", coco, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["images_linked"], report["images_copied"]) == (0, 3)
    raw = coco / "images" / "COCO_train2014_000000000001.jpg"
    copy = coco / "images" / "train2014" / raw.name
    assert copy.read_bytes() == raw.read_bytes()
    assert not raw.samefile(copy)


def test_a_linked_image_becomes_a_file(coco: Path, tmp_path: Path) -> None:
    raw = coco / "images" / "COCO_train2014_000000000001.jpg"
    stored = tmp_path / "store.jpg"
    raw.rename(stored)
    raw.symlink_to(Path("..", "..", "store.jpg"))
    prepare("coco_stuff10k", "--root", coco)
    assert (coco / "images" / "train2014" / raw.name).read_bytes() == stored.read_bytes()


def test_an_interrupted_run_is_taken_up_again(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("coco_stuff10k", "--root", coco, "--workers", 1)
    masks = coco / "annotations" / "train2014"
    lost, kept = sorted(masks.iterdir())
    expected, untouched = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (masks / f".{lost.name}.4711.tmp").write_bytes(b"half a mask")
    capsys.readouterr()
    prepare("coco_stuff10k", "--root", coco, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["masks_written"], report["masks_skipped"]) == (1, 2)
    assert report["images_skipped"] == 3
    assert lost.read_bytes() == expected
    assert kept.stat().st_mtime_ns == untouched
    assert len(open_dataset("coco_stuff10k", coco, "train")) == 2


def test_a_run_that_fails_leaves_no_half_mask(coco: Path) -> None:
    bad = coco / "annotations" / "COCO_train2014_000000000002.mat"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"annotation '.*0002\.mat' cannot be read as a MATLAB"):
        prepare("coco_stuff10k", "--root", coco)
    masks = list((coco / "annotations").glob("*2014/.*")) + list(coco.rglob("*0002_label*"))
    assert masks == []


@pytest.mark.parametrize("content", [b"", b"no MATLAB file, but long enough to hold a header" * 9])
def test_what_is_no_mat_file(coco: Path, content: bytes) -> None:
    (coco / "annotations" / "COCO_train2014_000000000500.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"'.*0500\.mat' cannot be read .*; copy it again"):
        prepare("coco_stuff10k", "--root", coco)


def test_a_mat_file_of_something_else(coco: Path) -> None:
    path = coco / "annotations" / "COCO_train2014_000000000500.mat"
    write_mat(path, {"LabelMap": np.zeros((4, 4), np.uint8)})
    with pytest.raises(ValueError, match=r"'.*0500\.mat' has no variable 'S'; give the files of"):
        prepare("coco_stuff10k", "--root", coco)
    write_mat(path, {"S": np.zeros((4, 4, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"is uint8 of shape \(4, 4, 3\), expected numbers \(hei"):
        prepare("coco_stuff10k", "--root", coco)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 12], [12, 183]], r"3 pixels of 2 unknown ids \(first: 12, 183\); expected 0 to 182"),
        ([[1, 2.5], [-1, np.nan]], r"3 pixels of 3 unknown ids \(first: -1, 2.5, nan\)"),
    ],
)
def test_unknown_ids_are_counted_and_named(
    coco: Path, ids: list[list[float]], message: str
) -> None:
    path = coco / "annotations" / "COCO_train2014_000000000500.mat"
    write_mat(path, {"S": np.array(ids)})
    with pytest.raises(ValueError, match=rf"annotation '.*0500\.mat' has {message}"):
        prepare("coco_stuff10k", "--root", coco)


def test_listed_files_that_are_not_there_stop_it_before_it_starts(coco: Path) -> None:
    (coco / "images" / "COCO_train2014_000000000001.jpg").unlink()
    (coco / "annotations" / "COCO_train2014_000000000500.mat").unlink()
    message = (
        r"the lists name 3 images; not in '.*images': 1 \(first: .*0001\.jpg\), without an "
        r"annotation in '.*': 1 \(first: .*0500\.mat\); copy what is missing"
    )
    with pytest.raises(ValueError, match=message):
        prepare("coco_stuff10k", "--root", coco)
    assert not (coco / "annotations" / "train2014").exists()


def test_missing_lists_and_folders(coco: Path, tmp_path: Path) -> None:
    (coco / "imageLists" / "test.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected imageLists/train\.txt and .* list of val"
    ):
        prepare("coco_stuff10k", "--root", coco)
    with pytest.raises(FileNotFoundError, match="missing: images, annotations"):
        prepare("coco_stuff10k", "--root", tmp_path / "coco_stuff10k" / "images")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        prepare("coco_stuff10k", "--root", tmp_path / "none")


def test_label_maps_are_converted_value_by_value(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 460 ids: 59 are classes, the others background."""
    prepare("pascal_context", "--root", tmp_path)
    said = capsys.readouterr().out
    assert f"masks of {voc}/trainval/*.mat" in said
    assert said.endswith("pascal_context: 3 masks written, 0 already there\n")
    mask = read(voc / "SegmentationClassContext" / "2008_000002.png")
    raw = id_grid(np.arange(460), (120, 150), 1)
    classes = {raw_id: index for index, raw_id in enumerate(sorted(CONTEXT_IDS))}
    expected = [[classes.get(int(value), 0) for value in row] for row in raw]
    assert mask.tolist() == expected
    # VOC's own lists become those of the splits.
    assert len(open_dataset("pascal_context", voc, "train")) == 2
    _, ignored = next(iter(open_dataset("pascal_context_59", voc, "val")))
    assert np.unique(ignored).tolist() == [*range(59), 255]


def test_the_json_is_preferred_and_gives_the_lists(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_detail(voc / "trainval_merged.json", CONTEXT_IDS, train=2, val=1)
    prepare("pascal_context", "--root", voc, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["dataset"] == "pascal_context"
    assert report["annotations"].endswith("trainval_merged.json")
    assert (report["masks_written"], report["masks_skipped"], report["warnings"]) == (3, 0, [])
    assert [Path(path).name for path in report["lists_written"]] == ["train.txt", "val.txt"]
    mask = read(voc / "SegmentationClassContext" / "2008_000002.png")
    assert np.array_equal(mask, id_grid(np.arange(60), (72, 96), 1))
    lists = voc / "ImageSets" / "SegmentationContext"
    assert (lists / "train.txt").read_text() == "2008_000001\n2008_000002\n"
    assert (lists / "val.txt").read_text() == "2010_000001\n"
    assert not (voc / "SegmentationClassContext" / "2009_000009.png").exists()  # of phase test


def test_lists_that_are_there_stay(voc: Path) -> None:
    mine = voc / "ImageSets" / "SegmentationContext" / "train.txt"
    write_list(mine, ["2008_000001"])
    prepare("pascal_context", "--root", voc)
    assert mine.read_text() == "2008_000001\n"


def test_a_json_of_splits_alone_goes_with_label_maps(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = voc / "trainval_merged.json"
    write_detail(path, [0, 2], train=1, val=1)
    path.write_text(json.dumps({"images": json.loads(path.read_text())["images"]}))
    prepare("pascal_context", "--root", voc, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["annotations"].endswith("*.mat")
    assert len(open_dataset("pascal_context", voc, "train")) == 1


def test_without_any_list_masks_are_written_and_a_warning_says_so(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "ImageSets" / "Main" / "val.txt").unlink()
    prepare("pascal_context", "--root", voc)
    captured = capsys.readouterr()
    assert "3 masks written" in captured.out
    assert "warning: no list of val: neither trainval_merged.json nor ImageSets" in captured.err


def test_ids_beyond_the_release(voc: Path) -> None:
    write_mat(voc / "trainval" / "2010_000001.mat", {"LabelMap": np.full((3, 3), 460, np.uint16)})
    with pytest.raises(ValueError, match=r"'.*2010_000001\.mat' has 9 pixels of 1 unknown ids \(f"):
        prepare("pascal_context", "--root", voc)


def test_a_json_with_other_ids_or_damaged_segments(voc: Path) -> None:
    path = voc / "trainval_merged.json"
    write_detail(path, [0, 2, 3], train=1, val=0)
    with pytest.raises(
        ValueError, match=r"image '2008_000001' of .*\.json has .*\(first: 3\); exp"
    ):
        prepare("pascal_context", "--root", voc)
    data = json.loads(path.read_text())
    data["annos_segmentation"][0]["segmentation"]["counts"] = "0182L0005"
    path.write_text(json.dumps(data))
    message = r"image '2008_000001' .* cannot be drawn at 72x96: run lengths sum to 35 pixels, exp"
    with pytest.raises(ValueError, match=message):
        prepare("pascal_context", "--root", voc)


def test_no_annotations_at_all(voc: Path) -> None:
    for path in (voc / "trainval").iterdir():
        path.unlink()
    message = r"expected trainval_merged\.json or trainval/\*\.mat, found no annotations"
    with pytest.raises(FileNotFoundError, match=message):
        prepare("pascal_context", "--root", voc)


def test_it_runs_as_a_module_with_a_bar_and_says_what_is_wrong(coco: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "segvit.datasets.prepare",
        "coco_stuff10k",
        "--root",
        str(coco),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3/3" in done.stderr
    silent = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert (silent.stderr, json.loads(silent.stdout)["masks_skipped"]) == ("", 3)
    (coco / "imageLists" / "train.txt").write_text("other\n")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: data set 'coco_stuff10k': the lists name 2 images;")
    assert failed.stderr.count("\n") == 1


def test_without_scipy_the_extra_is_named(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        prepare("coco_stuff10k", "--root", coco)
    assert describe_error(caught.value) == (
        "scipy is not installed; install it with: pip install 'segvit-deploy[prepare]'"
    )


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["ade20k", "--root", "."], ["coco_stuff10k"],
                      ["coco_stuff10k", "--root", ".", "--workers", "0"]):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "--workers must be at least 1" in capsys.readouterr().err
