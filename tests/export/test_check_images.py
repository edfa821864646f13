"""Images a build is verified on."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from export.check_images import load_check_images
from segvit.config import find_variant
from tests.tiny_models import make_config

LANDCOVER = find_variant("vit_t_landcover")


def test_land_cover_tiles_come_with_labels() -> None:
    check = load_check_images(None, LANDCOVER, (256, 256), 3, seed=0)
    assert check.images.shape == (3, 256, 256, 3)
    assert check.truth is not None
    assert check.truth.shape == (3, 256, 256)
    assert check.source == "3 land-cover test tiles"


def test_other_sizes_are_resized_labels_by_nearest() -> None:
    check = load_check_images(None, LANDCOVER, (128, 192), 2, seed=0)
    assert check.images.shape == (2, 128, 192, 3)
    assert check.truth is not None
    assert set(np.unique(check.truth)) <= {*range(7), 255}


def test_other_classes_have_no_truth() -> None:
    assert load_check_images(None, make_config(), (64, 64), 2, seed=0).truth is None


def test_a_folder_of_the_user(tmp_path: Path) -> None:
    for index, size in enumerate(((40, 60), (64, 64), (100, 20))):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((*size, 3), 40 * index, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    check = load_check_images(tmp_path, LANDCOVER, (64, 64), 2, seed=0)
    assert check.images.shape == (2, 64, 64, 3)
    assert check.truth is None
    assert "2 images of" in check.source
    everything = load_check_images(tmp_path, LANDCOVER, (64, 64), 10, seed=0)
    assert [image[0, 0, 0] for image in everything.images] == [0, 40, 80]


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image"):
        load_check_images(tmp_path, LANDCOVER, (64, 64), 2, seed=0)
