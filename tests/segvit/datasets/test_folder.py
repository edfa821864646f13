"""`segvit.datasets.folder`: pairs, ids, and what it says of folders that do not fit."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segvit.classes import distinct_palette
from segvit.datasets.folder import FolderDataset, open_folder
from segvit.images import UnreadableError


def _write(path: Path, array: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in (("b", 2), ("a", 1)):
        _write(tmp_path / "images" / f"{name}.jpg", np.full((8, 9, 3), 100, np.uint8))
        _write(tmp_path / "masks" / f"{name}.png", np.full((8, 9), value, np.uint8))
    (tmp_path / "classes.txt").write_text("sky\nsea\n\nland\n")
    return tmp_path


def _open(root: Path, reduce_zero_label: bool = False) -> FolderDataset:
    return open_folder(root / "images", root / "masks", root / "classes.txt", reduce_zero_label)


def test_pairs_come_in_order(root: Path) -> None:
    data = _open(root)
    assert data.class_names == ("sky", "sea", "land")
    assert data.palette == distinct_palette(3)
    assert len(data) == 2
    assert [sample.image.name for sample in data.samples] == ["a.jpg", "b.jpg"]
    assert [(image.shape, int(mask[0, 0])) for image, mask in data] == [
        ((8, 9, 3), 1), ((8, 9, 3), 2),
    ]  # fmt: skip


def test_zero_may_mean_ignored(root: Path) -> None:
    mask = np.array([[0, 1, 2, 3, 255]], np.uint8)
    _write(root / "masks" / "a.png", mask)
    read = _open(root, reduce_zero_label=True).read_mask(root / "masks" / "a.png")
    assert read.tolist() == [[255, 0, 1, 2, 255]]


def test_sixteen_bit_masks_are_read(root: Path) -> None:
    _write(root / "masks" / "a.png", np.array([[0, 2, 255]], np.uint16))
    assert _open(root).read_mask(root / "masks" / "a.png").tolist() == [[0, 2, 255]]


def test_images_without_a_mask_are_counted_and_named(root: Path) -> None:
    (root / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images in .* no mask .*first: b\.jpg"):
        _open(root)


def test_an_empty_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'.*empty' holds no images"):
        open_folder(tmp_path / "empty", root / "masks", root / "classes.txt")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((9, 8), np.uint8), r"is 9x8, its image '.*a\.jpg' 8x9; give the mask made"),
        (np.zeros((8, 9, 3), np.uint8), "has 3 channels, expected one .* indices as a grey PNG"),
        (np.full((8, 9), 7, np.uint8), r"72 pixels of unknown classes \(7\); expected 0 to 2"),
    ],
)
def test_masks_that_do_not_fit(root: Path, mask: NDArray[np.uint8], message: str) -> None:
    _write(root / "masks" / "a.png", mask)
    with pytest.raises(ValueError, match=message):
        list(_open(root))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_damaged_mask(root: Path, content: bytes) -> None:
    (root / "masks" / "a.png").write_bytes(content)
    with pytest.raises(UnreadableError, match=r"mask '.*a\.png' cannot be decoded"):
        list(_open(root))


@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_a_mask_cut_off(root: Path, kept: float) -> None:
    """OpenCV would fill what is missing with class 0."""
    path = root / "masks" / "a.png"
    _write(path, np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UnreadableError, match=r"mask '.*a\.png' is cut off"):
        _open(root).read_mask(path)


def _packed_png(ids: NDArray[np.uint8], depth: int, colour_type: int) -> bytes:
    """Return a PNG with `depth` bits a pixel; a palette (colour type 3) of odd colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = ids.shape
    bits = (ids[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, width * depth).astype(np.uint8), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    colours = bytes((37 * index + 11) % 256 for index in range(3 * 2**depth))
    extra = chunk(b"PLTE", colours) + chunk(b"tRNS", b"\0\x80") if colour_type == 3 else b""
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(pixels)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_ids_of_few_bits_and_palette_indices_are_read(
    root: Path, depth: int, colour_type: int
) -> None:
    path = root / "masks" / "a.png"
    ids = np.arange(8 * 9).reshape(8, 9).astype(np.uint8) % min(2**depth, 70)
    path.write_bytes(_packed_png(ids, depth, colour_type))
    data = FolderDataset((), tuple(map(str, range(70))), ((0, 0, 0),) * 70)
    assert np.array_equal(data.read_mask(path), ids)


def test_a_palette_png_cut_off(root: Path) -> None:
    path = root / "masks" / "a.png"
    whole = _packed_png(np.ones((8, 9), np.uint8), 8, 3)
    for size in (26, 33, 60, len(whole) - 12):
        path.write_bytes(whole[:size])
        with pytest.raises(UnreadableError, match=r"mask '.*a\.png' is cut off"):
            _open(root).read_mask(path)
