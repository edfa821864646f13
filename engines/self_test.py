"""Does an engine give the reference's labels on this machine? `golden.npz` has the answers.

Shapes: `n` images, `H, W` pixels.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from engines.arrays import Images
from engines.runtime import Runtime, infer_all
from export.class_parity import find_lost_class
from export.manifest import Manifest, ManifestError, read_verified
from export.verify import GATES, ParityError

GOLDEN_NAME = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """uint8 images `(n, H, W, 3)` and the reference's int32 labels `(n, H, W)` of them."""

    images: Images
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class SelfTest:
    """Shares of pixels labelled as the reference labels them, an image and in all.

    `gate` is the least that the precision has to reach; None of random weights, whose labels are
    near-ties that any rounding turns. `lost_class` has pixels enough for a gate in the reference's
    labels, and none in the engine's.
    """

    target: str
    precision: str
    images: tuple[float, ...]
    agreement: float
    gate: float | None
    lost_class: str | None = None


def read_golden(folder: str | Path, manifest: Manifest) -> Golden:
    """Return an artifact's images and labels, every shape compared with the manifest.

    Raises:
        ManifestError: if the file is missing, changed or damaged, or of another size.
    """
    path = Path(folder) / GOLDEN_NAME
    data = read_verified(folder, GOLDEN_NAME, manifest)  # what was hashed is what is read
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, MemoryError, NotImplementedError,
            AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ManifestError(f"'{path}' is damaged: {error}; build the artifact again") from error
    count = len(images) if images.ndim else 0
    size = tuple(manifest.input.shape[1:3])
    for name, array, dtype, shape in (
        ("images", images, np.uint8, (count, *size, 3)),
        ("labels", labels, np.int32, (count, *size)),
    ):
        if array.dtype != dtype or array.shape != shape or not count:
            wanted = ", ".join(map(str, shape[1:]))
            raise ManifestError(
                f"'{path}' does not fit its manifest: expected {name} of {np.dtype(dtype)} "
                f"(n, {wanted}), got {array.dtype} {array.shape}; build the artifact again"
            )
    return Golden(images, labels)


def run_self_test(
    runtime: Runtime, golden: Golden, manifest: Manifest, progress: bool = False
) -> SelfTest:
    """Return how many labels of an engine are the reference's; scores are compared by argmax.

    Raises:
        ManifestError: if the manifest's precision is none that has a gate.
        ValueError, RuntimeError: as `Runtime.infer` does.
    """
    if manifest.precision not in GATES:
        known = ", ".join(GATES)
        raise ManifestError(
            f"precision '{manifest.precision}' of the manifest is unknown; expected one of: {known}"
        )
    step = runtime.batch[1]
    shares: list[float] = []
    found: list[npt.NDArray[Any]] = []
    with tqdm(total=len(golden.images), unit="image", leave=False, disable=not progress) as bar:
        for start in range(0, len(golden.images), step):
            output = infer_all(runtime, golden.images[start : start + step])
            labels = output if output.ndim == 3 else output.argmax(axis=1)
            equal = labels == golden.labels[start : start + step]  # (B, H, W)
            shares += equal.mean(axis=(1, 2)).tolist()
            found.append(labels)
            bar.update(len(equal))
    return SelfTest(
        target=runtime.target,
        precision=manifest.precision,
        images=tuple(shares),
        agreement=float(np.mean(shares)),
        gate=None if manifest.model.random_weights else GATES[manifest.precision].pixel_agreement,
        lost_class=find_lost_class(
            golden.labels, np.concatenate(found), manifest.classes, _share_pixels(golden, manifest)
        ),
    )


def _share_pixels(golden: Golden, manifest: Manifest) -> npt.NDArray[np.float64]:
    """Return the share of each image's pixels that are independent, as the build counted them."""
    parity, (count, *size) = manifest.parity, golden.labels.shape
    share = 1.0
    if parity is not None and parity.independent_pixels is not None:
        share = min(1.0, parity.independent_pixels / (parity.images * size[0] * size[1]))
    return np.full(count, share)


def check_self_test(result: SelfTest) -> None:
    """Accept a result that reaches its gate and keeps something of every class.

    Raises:
        ParityError: if it does not.
    """
    if result.gate is not None and not result.agreement >= result.gate:
        raise ParityError(
            f"target '{result.target}' gives {result.agreement:.5f} of the reference's labels in "
            f"{result.precision}, the gate is {result.gate}; use another --target on this machine, "
            "and please report it"
        )
    if result.gate is not None and result.lost_class is not None:
        raise ParityError(
            f"target '{result.target}' loses class '{result.lost_class}' whole: the reference's "
            "labels have it, none of its pixels is left; use another --target on this machine, and "
            "please report it"
        )
