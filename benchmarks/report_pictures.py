"""What an engine makes of the artifact's own images, as PNGs that stand in the page itself."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.strip import draw_strip, place_errors
from engines.runtime import infer_all, open_runtime
from engines.self_test import read_golden
from export.manifest import Manifest
from segvit.images import Image, Labels

_MAX_SIDE = 512  # pixels; larger pictures are reduced
_UNKNOWN = (127, 127, 127)
_DIFFERENT = (255, 0, 144)
# Single pixels vanish where a picture is shown smaller than it is: marks grow with its side.
_MARK_SHARE = 1 / 128


def draw_golden(folder: Path, manifest: Manifest, target: str, count: int) -> dict[str, Any]:
    """Return pictures of golden images, the most different ones first.

    Without an engine that runs here they are the first ones, with the reason.

    Raises:
        ManifestError: if a file is not the one the manifest lists.
    """
    golden = read_golden(folder, manifest)
    found, ran, reason = None, "", ""
    try:
        with open_runtime(folder, target) as runtime:
            output = infer_all(runtime, golden.images)
            ran = runtime.target
        found = output if output.ndim == 3 else output.argmax(axis=1)
    except (ValueError, ImportError) as error:
        reason = str(error)
    order = np.arange(len(golden.images))
    if found is not None:
        order = np.argsort(-(found != golden.labels).mean(axis=(1, 2)), kind="stable")
    rows = []
    for index in map(int, order[:count]):
        image, labels = golden.images[index], golden.labels[index]
        row: dict[str, Any] = {
            "number": index + 1,
            "image": encode_png(image),
            "reference": encode_png(_colour(labels, manifest)),
        }
        if found is not None:
            different = found[index] != labels
            row |= {
                "engine": encode_png(_colour(found[index], manifest)),
                "disagreement": encode_png(_mark(image, different)),
                "pixels": int(different.sum()),
                "share": float(different.mean()),
            }
        rows.append(row)
    shown = np.unique(golden.labels[order[:count]])
    legend = [
        {"name": manifest.classes[label], "colour": f"#{bytes(manifest.palette[label]).hex()}"}
        for label in shown
        if 0 <= label < len(manifest.classes)
    ]
    return {"rows": rows, "target": ran, "reason": reason, "legend": legend}


def encode_file(png: Path) -> str:
    """Return a PNG file as a data URI."""
    return _data_uri(png.read_bytes())


def draw_sensitivity(errors: dict[str, float], title: str) -> str:
    """Return the heat strip of score errors by product as a data URI."""
    return _encode(draw_strip(place_errors(errors), title))


def encode_png(image: Image) -> str:
    """Return an RGB picture `(H, W, 3)`, reduced if large, as the data URI of a PNG."""
    return _encode(_reduce(image))


def _encode(image: Image) -> str:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return _data_uri(data.tobytes())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _reduce(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = _MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Nearest: a mean of two classes' colours is the colour of a third.
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _colour(labels: Labels, manifest: Manifest) -> Image:
    palette = np.array([*manifest.palette, _UNKNOWN], np.uint8)
    known = (labels >= 0) & (labels < len(manifest.palette))
    return palette[np.where(known, labels, len(manifest.palette))]


def _mark(image: Image, different: NDArray[np.bool_]) -> Image:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 3
    marked = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
    side = max(1, round(max(different.shape) * _MARK_SHARE)) | 1
    grown = cv2.dilate(different.astype(np.uint8), np.ones((side, side), np.uint8))
    marked[grown > 0] = _DIFFERENT
    return marked
