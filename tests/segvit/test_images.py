from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segvit.images import (
    UnreadableError,
    class_shares,
    draw_overlay,
    find_images,
    read_image,
    resize_image,
    resize_labels,
    write_labels,
    write_png,
)

NAMES = ("water", "tree cover", "crop")
PALETTE = ((28, 92, 168), (20, 110, 50), (236, 150, 60))


@pytest.fixture
def picture() -> np.ndarray:
    """A picture without symmetry, its channels unlike each other."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=-1).astype(np.uint8)


def save(path: Path, stored: np.ndarray) -> Path:
    """Write as OpenCV does, channels in BGR(A) order."""
    path.write_bytes(cv2.imencode(path.suffix, stored)[1].tobytes())
    return path


def test_channels_come_in_rgb_order(tmp_path: Path, picture: np.ndarray) -> None:
    write_png(tmp_path / "a.png", picture)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
    reference = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR)
    assert reference is not None
    assert np.array_equal(reference[..., ::-1], picture)


def test_grey_becomes_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    image = read_image(save(tmp_path / "grey.png", picture[..., 0]))
    assert image.shape == (48, 64, 3)
    assert all(np.array_equal(image[..., channel], picture[..., 0]) for channel in range(3))


def test_alpha_is_dropped_not_blended(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.zeros((48, 64, 1), np.uint8)
    stored = np.concatenate([picture[..., ::-1], alpha], axis=-1)
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", stored)), picture)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    stored = np.array([[[0, 128, 129], [257, 32896, 65535]]], np.uint16)
    image = read_image(save(tmp_path / f"deep{suffix}", stored))
    assert image.dtype == np.uint8
    assert image.tolist() == [[[1, 0, 0], [255, 128, 1]]]


def test_sixteen_bit_grey_is_read(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "deep.png", np.array([[0, 65535]], np.uint16)))
    assert image.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_the_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray) -> None:
    jpeg = save(tmp_path / "a.jpg", picture[..., ::-1]).read_bytes()
    # A little-endian TIFF block with one entry: orientation 6, turn a quarter clockwise.
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    block = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(jpeg[:2] + segment + jpeg[2:])
    upright = np.rot90(read_image(tmp_path / "a.jpg"), -1)
    assert np.array_equal(read_image(turned), upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_every_listed_format_is_read(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", picture[..., ::-1]))
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < 6


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(UnreadableError, match=r"image '.*empty\.png' is empty \(0 bytes\)"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_an_image_cut_off_is_refused(
    tmp_path: Path, picture: np.ndarray, suffix: str, share: float
) -> None:
    path = save(tmp_path / f"cut{suffix}", picture[..., ::-1])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableError, match=r"image '.*cut.*' is cut off"):
        read_image(path)


def test_bytes_after_a_jpeg_do_no_harm(tmp_path: Path, picture: np.ndarray) -> None:
    path = save(tmp_path / "a.jpg", picture[..., ::-1])
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\xff\xda a phone's video clip \xff\xd8")
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("content", [b"hello, world", b"\xff\xd8\xff\xd9", b"II*\0" + b"\xff" * 90])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"image '.*note\.png' cannot be decoded"):
        read_image(path)


def test_damaged_pixels_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    data = bytearray(save(tmp_path / "a.png", picture[..., ::-1]).read_bytes())
    start = data.index(b"IDAT") + 4
    data[start : start + 40] = bytes(40)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableError, match=r"image '.*a\.png' cannot be decoded"):
        read_image(tmp_path / "a.png")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="has float32 pixels, expected 8 or 16 bits"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="a folder, expected an image file"):
        read_image(tmp_path)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG of 900 megapixels in 0.1 MB; its pixels would take 2.7 GB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    side = 30_000
    squeezer = zlib.compressobj(9)
    rows = [squeezer.compress(bytes(1 + side // 8)) for _ in range(side)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", b"".join([*rows, squeezer.flush()]))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    # A process of its own: OpenCV reads its limit when it is first loaded.
    code = (
        "import resource, sys; from segvit.images import read_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try: read_image(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert f"image '{path}' is larger than 268 megapixels; cut it into tiles" in done.stdout


def test_resizing_is_opencvs_linear(picture: np.ndarray) -> None:
    expected = cv2.resize(picture, (80, 32), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_image(picture, (32, 80)), expected)
    assert resize_image(picture, (48, 64)) is picture


def test_labels_keep_their_ids_and_their_centres() -> None:
    labels = np.array([[0, 1], [2, 300]], np.int32)
    grown = resize_labels(labels, (4, 6))
    assert grown.tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 300, 300, 300]] * 2
    assert grown.dtype == np.int32
    assert resize_labels(grown, (2, 2)).tolist() == labels.tolist()
    assert resize_labels(np.arange(9).reshape(3, 3), (1, 1)).tolist() == [[4]]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_resized_labels_are_the_nearest(height: int, width: int, rows: int, columns: int) -> None:
    labels = np.arange(height * width).reshape(height, width)
    resized = resize_labels(labels, (rows, columns))
    source_rows, source_columns = np.divmod(resized, width)
    for source, old, new, axis in (
        (source_rows, height, rows, 0),
        (source_columns, width, columns, 1),
    ):
        centres = (np.arange(new) + 0.5) * old / new - 0.5
        distances = np.abs(source - (centres[:, None] if axis == 0 else centres[None]))
        assert distances.max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("classes", "dtype"), [(7, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_labels_are_written_as_they_are(tmp_path: Path, classes: int, dtype: type) -> None:
    labels = np.array([[0, 1], [2, classes - 1]], np.int32)
    write_labels(tmp_path / "a.labels.png", labels, classes)
    stored = cv2.imread(str(tmp_path / "a.labels.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.dtype == dtype
    assert np.array_equal(stored, labels)


def test_shares_sum_to_the_known_part() -> None:
    labels = np.array([[0, 0, 1], [255, 0, 2]])
    assert class_shares(labels, 3).tolist() == pytest.approx([3 / 6, 1 / 6, 1 / 6])


def test_an_overlay_mixes_colours_and_has_a_legend(picture: np.ndarray) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[:, 32:] = 2
    labels[0, 0] = 255  # no class: stays as it is
    overlay = draw_overlay(picture, labels, NAMES, PALETTE, opacity=0.5)
    assert overlay.dtype == np.uint8
    assert overlay.shape[0] >= 48
    assert overlay.shape[1] > 64
    assert np.array_equal(overlay[0, 0], picture[0, 0])
    expected = (picture[10, 40].astype(float) + PALETTE[2]) / 2
    assert np.abs(overlay[10, 40] - expected).max() <= 0.5
    legend = {tuple(pixel) for pixel in overlay[:, 64:].reshape(-1, 3).tolist()}
    assert PALETTE[0] in legend
    assert PALETTE[2] in legend
    assert PALETTE[1] not in legend  # tree cover is not in the picture
    assert (255, 255, 255) in legend


def test_opacity_reaches_from_nothing_to_all(picture: np.ndarray) -> None:
    labels = np.ones((48, 64), np.int32)
    clear = draw_overlay(picture, labels, NAMES, PALETTE, opacity=0)
    solid = draw_overlay(picture, labels, NAMES, PALETTE, opacity=1)
    assert np.array_equal(clear[:48, :64], picture)
    assert np.array_equal(np.unique(solid[:48, :64].reshape(-1, 3), axis=0), [PALETTE[1]])


def test_a_legend_of_many_classes_is_folded(picture: np.ndarray) -> None:
    labels = np.arange(48 * 64).reshape(48, 64) // 20
    palette = [(10 * (i % 25), i, 255 - i) for i in range(150)]
    overlay = draw_overlay(picture, labels, [f"class {i}" for i in range(150)], palette)
    assert overlay.shape[0] < 200
    colours = {tuple(pixel) for pixel in overlay[:, 64:].reshape(-1, 3).tolist()}
    assert sum(colour in colours for colour in palette) == 39


def test_labels_of_another_size_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected labels of \(48, 64\), got \(2, 2\)"):
        draw_overlay(picture, np.zeros((2, 2), np.uint8), NAMES, PALETTE)


def test_files_folders_and_globs_are_listed_once(tmp_path: Path, picture: np.ndarray) -> None:
    for name in ("b.png", "a.png", "c.JPG"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.png").write_bytes(b"x")
    names = [path.name for path in find_images([tmp_path])]
    assert names == ["a.png", "b.png", "c.JPG"]
    assert find_images([tmp_path / "b.png", tmp_path]) == [
        tmp_path / "b.png", tmp_path / "a.png", tmp_path / "c.JPG",
    ]  # fmt: skip
    assert [path.name for path in find_images([f"{tmp_path}/**/*.png"])] == [
        "a.png",
        "b.png",
        "d.png",
    ]
    assert [path.name for path in find_images([f"{tmp_path}/*"])] == ["a.png", "b.png", "c.JPG"]


def test_an_input_that_names_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such image, folder or pattern"):
        find_images([tmp_path / "none.png"])
    with pytest.raises(ValueError, match=r"holds no images; expected files ending in \.bmp"):
        find_images([tmp_path])
    with pytest.raises(ValueError, match=r"\*\.png' holds no images"):
        find_images([f"{tmp_path}/*.png"])
