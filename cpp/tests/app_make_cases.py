"""Write pictures of every kind, and what Python reads, resizes and blends of them.

`expected.npz` holds, beside each file `NAME`, the array `NAME` of `segvit.images.read_image`; and
for resizing and blending the arrays that the tests of the same name take.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segvit.images import draw_overlay, read_image, resize_image, resize_labels

Pixels = npt.NDArray[np.uint8]
SIZES = ((64, 64), (32, 32), (33, 100), (128, 128), (1, 7))  # of a (64, 96) image
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
PALETTE = ((200, 30, 40), (10, 220, 90), (60, 70, 250))


def main() -> None:
    """Write the files into the folder that `--out` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    for folder in (out, out / "bad"):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():  # what an earlier version wrote is no case of this one
            if old.is_file():
                old.unlink()
    rng = np.random.default_rng(3)
    files = {**make_pngs(rng), **make_jpegs(rng)}
    for name, data in files.items():
        (out / name).write_bytes(data)
    for name, data in make_refused(files).items():
        (out / "bad" / name).write_bytes(data)
    expected = {name: read_image(out / name) for name in files}
    np.savez_compressed(out / "expected.npz", **expected, **make_operations(rng))


def make_pngs(rng: np.random.Generator) -> dict[str, bytes]:
    """Return a PNG of each colour type and depth, interlaced, with gamma, alpha and EXIF."""
    files = {}
    for kind, channels in CHANNELS.items():
        depths = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(kind, (8, 16))
        for depth in depths:
            for interlaced in (False, True):
                rows = random_rows(rng, depth * channels, interlaced)
                palette = _chunk(b"PLTE", rng.bytes(3 * 2**depth)) if kind == 3 else b""
                name = f"type{kind}_{depth}bit{'_interlaced' if interlaced else ''}.png"
                files[name] = write_png(kind, depth, rows, palette, interlaced)
    rows = random_rows(rng, 24, False)
    alpha = _chunk(b"PLTE", rng.bytes(768)) + _chunk(b"tRNS", rng.bytes(256))
    files["palette_alpha.png"] = write_png(3, 8, random_rows(rng, 8, False), alpha)
    gamma = _chunk(b"gAMA", struct.pack(">I", 100000)) + _chunk(b"sBIT", bytes([5, 6, 5]))
    files["gamma.png"] = write_png(2, 8, rows, gamma)
    key = _chunk(b"tRNS", struct.pack(">HHH", *rows[1:4]))
    files["colour_key.png"] = write_png(2, 8, rows, key + _chunk(b"bKGD", bytes(6)))
    files["exif_in_png.png"] = write_png(2, 8, rows, _chunk(b"eXIf", exif(6, "<")))
    return files


def make_jpegs(rng: np.random.Generator) -> dict[str, bytes]:
    """Return a JPEG of each subsampling, grey, progressive, with restarts, and each orientation."""
    image = cv2.resize(rng.integers(0, 256, (9, 13, 3), np.uint8), (101, 67))
    sampling, progressive = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_PROGRESSIVE
    kinds = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "411": 0x411111, "440": 0x121111}
    files = {f"colour{n}.jpg": _jpeg(image, sampling, factor) for n, factor in kinds.items()}
    files["progressive.jpg"] = _jpeg(image, progressive, 1)
    files["restarts.jpg"] = _jpeg(image, cv2.IMWRITE_JPEG_RST_INTERVAL, 3)
    files["grey.jpg"] = _jpeg(image[..., 0], cv2.IMWRITE_JPEG_QUALITY, 60)
    plain = files["colour420.jpg"]
    for orientation in range(10):
        order = "<" if orientation % 2 else ">"
        block = _app1(b"http://ns.adobe.com/xap/1.0/\0") + _app1(exif(orientation, order, True))
        files[f"exif{orientation}.jpg"] = plain[:2] + block + plain[2:]
    return files


def make_refused(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files whose headers ask for too much, and one of 600 scans."""
    huge = bytearray(files["colour420.jpg"])
    frame = huge.index(b"\xff\xc0") + 5
    huge[frame : frame + 4] = b"\xff\x00\xff\x00"
    progressive = files["progressive.jpg"]
    first, second = progressive.index(b"\xff\xda"), progressive.index(b"\xff\xc4", 600)
    return {
        "huge.png": write_png(2, 8, b"", size=(16385, 16384)),
        "wide.png": write_png(2, 8, b"", size=(2**20 + 1, 1)),
        "huge.jpg": bytes(huge),
        "scans.jpg": progressive[:first] + progressive[first:second] * 600 + progressive[-2:],
    }


def make_operations(rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
    """Return arrays and what resizing and blending make of them."""
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    labels = rng.integers(0, 3, (64, 96), np.uint8)
    arrays: dict[str, npt.NDArray[np.generic]] = {"image": image, "labels": labels}
    for height, width in SIZES:
        arrays[f"image_{height}x{width}"] = resize_image(image, (height, width))
        arrays[f"labels_{height}x{width}"] = resize_labels(labels, (height, width))
    for percent in (0, 30, 50, 100):
        drawn = draw_overlay(image, labels, "abc", PALETTE, percent / 100)
        arrays[f"overlay_{percent}"] = np.ascontiguousarray(drawn[:64, :96])
    return {**arrays, "ids": np.array([0, -1, 70000, 3], np.int32)}


def random_rows(rng: np.random.Generator, bits: int, interlaced: bool) -> bytes:
    """Return the unfiltered rows of a picture of 13 x 11 pixels, of one pass or of Adam7's."""
    width, height = 13, 11
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    rows = b""
    for left, top, across, down in passes if interlaced else ((0, 0, 1, 1),):
        pixels, lines = len(range(left, width, across)), len(range(top, height, down))
        if pixels:
            rows += b"".join(b"\0" + rng.bytes((pixels * bits + 7) // 8) for _ in range(lines))
    return rows


def write_png(
    kind: int,
    depth: int,
    rows: bytes,
    extra: bytes = b"",
    interlaced: bool = False,
    size: tuple[int, int] = (13, 11),
) -> bytes:
    """Return a PNG of a size (width, height); `extra` are chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, interlaced)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def exif(orientation: int, order: str, named: bool = False) -> bytes:
    """Return EXIF data of two entries, little-endian (`<`) or big (`>`)."""
    mark = b"II" if order == "<" else b"MM"
    width = struct.pack(f"{order}HHIHH", 0x100, 3, 1, 13, 0)
    entry = struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0)
    tiff = mark + struct.pack(f"{order}HIH", 42, 8, 2) + width + entry + bytes(4)
    return (b"Exif\0\0" if named else b"") + tiff


def _app1(data: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


def _jpeg(image: Pixels, *options: int) -> bytes:
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


if __name__ == "__main__":
    main()
