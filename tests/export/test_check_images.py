"""Images a build is verified on."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from export.check_images import Masks, load_check_images
from segvit.config import find_variant
from segvit.model import Size
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


def _write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / name), pixels)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images of 32x48 whose left half is class 2; the last has no mask."""
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24], mask[0, 0] = 2, 255
    for index in range(3):
        _write(tmp_path / "images", f"{index}.png", np.full((32, 48, 3), index, np.uint8))
        if index < 2:
            _write(tmp_path / "masks", f"{index}.png", mask)
    return tmp_path / "images", tmp_path / "masks"


def test_masks_are_read_and_resized_with_their_images(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    check = load_check_images(images, LANDCOVER, (64, 64), 9, seed=0, masks=Masks(masks))
    assert check.truth is not None
    assert check.truth.shape == (3, 64, 64)
    assert (check.truth[:2, 2:, :32] == 2).all()
    assert (check.truth[:2, :, 32:] == 0).all()
    assert (check.truth[:2, :2, 0] == 255).all()
    assert (check.truth[2] == 255).all()  # no mask
    assert check.source == f"3 images of '{images}', 2 with masks of '{masks}'"
    zero = load_check_images(
        images, LANDCOVER, (64, 64), 9, seed=0, masks=Masks(masks, reduce_zero_label=True)
    )
    assert zero.truth is not None
    assert (zero.truth[:2, 2:, :32] == 1).all()
    assert (zero.truth[:2, :, 32:] == 255).all()


@pytest.mark.parametrize("seed", range(3))
def test_images_with_masks_are_drawn_first(folders: tuple[Path, Path], seed: int) -> None:
    check = load_check_images(folders[0], LANDCOVER, (64, 64), 2, seed, masks=Masks(folders[1]))
    assert [image[0, 0, 0] for image in check.images] == [0, 1]


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("0.png", np.zeros((32, 32), np.uint8), "is 32x32, its image '.*0.png' 32x48; give the"),
        ("0.png", np.full((32, 48), 7, np.uint8), r"unknown classes \(7\); expected 0 to 6"),
        ("0.png", np.zeros((32, 48, 3), np.uint8), "has 3 channels, expected one of class ids"),
        ("other.png", np.zeros((32, 48), np.uint8), "expected names of images in .*such as '0.png"),
        ("0.png", np.full((32, 48), 255, np.uint8), r"got 255 \(ignored\) in every pixel"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(
    folders: tuple[Path, Path], tmp_path: Path, name: str, mask: np.ndarray, message: str
) -> None:
    _write(tmp_path / "wrong", name, mask)
    with pytest.raises(ValueError, match=message) as caught:
        load_check_images(
            folders[0], LANDCOVER, (64, 64), 9, seed=0, masks=Masks(tmp_path / "wrong")
        )
    assert "\n" not in str(caught.value)


def test_a_folder_of_masks_that_is_not_there(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such image, folder or pattern"):
        load_check_images(
            folders[0], LANDCOVER, (64, 64), 9, seed=0, masks=Masks(tmp_path / "none")
        )


def test_enlarged_images_have_the_independent_pixels_of_their_files(tmp_path: Path) -> None:
    """By hand: a tile is 64 source pixels wide; a user's image is enlarged along one side alone."""

    def share(folder: Path | None, size: Size, model_size: Size | None = None) -> float:
        check = load_check_images(folder, LANDCOVER, size, 1, seed=0, model_size=model_size)
        assert check.independent_shares is not None
        return float(check.independent_shares[0])

    assert share(None, (256, 256)) * 256 * 256 == 4096
    assert share(None, (32, 256)) * 32 * 256 == 32 * 64
    _write(tmp_path / "images", "a.png", np.zeros((100, 32, 3), np.uint8))
    assert share(tmp_path / "images", (64, 64)) * 64 * 64 == 64 * 32
    # The model works on fewer pixels than its labels are given at.
    assert share(tmp_path / "images", (100, 32), (50, 64)) * 100 * 32 == 50 * 32
