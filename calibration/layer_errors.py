"""What quantising some products and nothing else does to a float graph's scores and labels.

Shapes: `n` images, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.images import CalibrationImages, load_calibration_images
from calibration.qdq_insertion import list_products
from calibration.quantization import quantise_model
from calibration.ranges import Ranges
from calibration.scheme import Scheme
from export.score_reader import ScoreReader
from export.verify import Predict, Prediction, compare
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import LandCover
from segvit.images import Size, find_images, read_image, resize_image, resize_labels

Grouping = Literal["layer", "block"]

# Float scores up to here are kept, those of further images computed again for every group: 32
# land-cover images take 60 MB, one of ADE20K at 512x512 takes 157 MB.
_KEPT_BYTES = 2_000_000_000
_BLOCK = re.compile(r"(encoder/\d+)/.*")


@dataclass(frozen=True)
class LayerError:
    """How far a graph with one group of products quantised is from the float graph.

    `score_rms` is the root mean square of the scores' difference over that of the float scores,
    `label_agreement` the share of pixels with the same label, `miou_drop_points` the float graph's
    mIoU less this one's, in points of 100; None without ground truth.
    """

    name: str
    score_rms: float
    label_agreement: float
    miou_drop_points: float | None = None


@dataclass(frozen=True)
class HeldOutImages:
    """uint8 images `(n, H, W, 3)`, labels `(n, H, W)` or None where nobody knows them."""

    images: NDArray[np.uint8]
    truth: NDArray[np.integer] | None
    source: str


def group_products(names: Sequence[str], by: Grouping) -> dict[str, frozenset[str]]:
    """Return products to quantise together, in the graph's order, by the name of the group.

    Args:
        names: of products, such as `encoder/3/fc1/MatMul`.
        by: `layer` gives each its own group, of its own name; `block` joins those of an encoder
            block as `encoder/3`, and what lies before the encoder as its first word.
    """
    if by == "layer":
        return {name: frozenset({name}) for name in names}
    groups: dict[str, frozenset[str]] = {}
    for name in names:
        found = _BLOCK.fullmatch(name)
        key = found[1] if found else name.split("/", 1)[0]
        groups[key] = groups.get(key, frozenset()) | {name}
    return groups


class ErrorMeter:
    """Measures quantised forms of a float graph against it.

    Args:
        model: the float graph, FP32 or FP16, labels or scores out; left as it is.
        scheme: what a quantised product becomes.
        ranges: of this graph.
        images: `(n, H, W, 3)` of the graph's size, best none that the ranges were measured on.
        truth: `(n, H, W)`, 255 ignored, or None.
        num_classes: K.
        against_float: without truth, take the float graph's own labels for it.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(
        self,
        model: ir.Model,
        scheme: Scheme,
        ranges: Ranges,
        images: NDArray[np.uint8],
        truth: NDArray[np.integer] | None,
        num_classes: int,
        against_float: bool = False,
    ) -> None:
        if len(images) == 0:
            raise ValueError("held-out images: expected at least one, got none; see --images")
        self._model, self._scheme, self._ranges = model, scheme, ranges
        self._images, self._truth, self._num_classes = images, truth, num_classes
        self._against_float = against_float
        self._products = _name_products(model, scheme)
        self._reference = _FloatScores(_open_reader(model, num_classes))

    def check_group(self, name: str, group: frozenset[str]) -> None:
        """Raise ValueError where a group is empty or names no product of the scheme."""
        if not group or group - self._products:
            raise ValueError(
                f"group '{name}': expected products that {self._scheme.name} quantises, got "
                f"{', '.join(sorted(group - self._products)) or 'none'}"
            )

    def measure(self, name: str, group: frozenset[str]) -> LayerError:
        """Return what quantising a group of products, and nothing else, costs.

        Raises:
            ValueError: as `check_group`, or if scores are not finite; the group is named.
        """
        self.check_group(name, group)
        quantised = self._model.clone()
        quantise_model(quantised, self._scheme, self._ranges, self._products - group)
        reader = _open_reader(quantised, self._num_classes)
        report = compare(
            self._reference, reader, self._images, self._truth, self._num_classes,
            _read_batch(self._model), show_progress=False, against_reference=self._against_float,
        )  # fmt: skip
        if not math.isfinite(report.score_rms):
            raise ValueError(
                f"'{name}' in {self._scheme.name}: expected finite scores, got some that are not; "
                "build the float graph with --fp32"
            )
        drop = None
        if report.miou is not None and report.miou_reference is not None:
            drop = 100 * (report.miou_reference - report.miou)
        return LayerError(name, report.score_rms, report.pixel_agreement, drop)


def measure_layer_errors(
    meter: ErrorMeter, groups: Mapping[str, frozenset[str]], progress: bool = True
) -> Iterator[LayerError]:
    """Yield what each group costs when it alone is quantised, in the order of `groups`.

    Args:
        meter: of the float graph.
        groups: names of products of the scheme, by the name of their group.
        progress: show a bar over the groups.

    Raises:
        ValueError: as `ErrorMeter.measure`, before anything is measured where a group is wrong.
    """
    for name, group in groups.items():
        meter.check_group(name, group)
    for name, group in tqdm(groups.items(), desc="measure", unit="group", disable=not progress):
        yield meter.measure(name, group)


def draw_images(
    held_out_folder: Path | None,
    calibration_folder: Path | None,
    counts: tuple[int, int],
    size: Size,
    class_names: Sequence[str],
    seed: int,
) -> tuple[HeldOutImages, CalibrationImages | None]:
    """Return images to measure on and others to calibrate on, no file among both.

    Args:
        held_out_folder: of images; None takes land cover's test tiles, which carry labels for
            models of the land-cover classes.
        calibration_folder: of images; None takes land cover's training tiles.
        counts: held-out and calibration images, at most; of the latter, 0 gives None.
        size: (height, width) of the graph's input.
        class_names: of the model.
        seed: of both draws.

    Raises:
        ValueError: if a folder has no readable image, or has none left to calibrate on.
        FileNotFoundError: if one, or the land-cover wheels, are missing.
    """
    calibration_paths = find_images([calibration_folder]) if calibration_folder else []
    taken: set[Path] = set()
    if held_out_folder is None:
        held_out = _draw_land_cover(counts[0], size, class_names, seed)
    else:
        chosen = _draw_held_out(held_out_folder, calibration_paths, counts[0], seed)
        taken = {path.resolve() for path in chosen}
        source = f"{len(chosen)} images of '{held_out_folder}'"
        held_out = HeldOutImages(_read_images(chosen, size), None, source)
    if counts[1] == 0:
        return held_out, None
    if calibration_folder is None:
        return held_out, load_calibration_images(None, size, counts[1], seed)
    left = [path for path in calibration_paths if path.resolve() not in taken]
    if not left:
        raise ValueError(
            f"'{calibration_folder}': expected images to calibrate on beside the {len(taken)} to "
            "measure on, got none; give --calibration-images another folder"
        )
    chosen = _draw(left, counts[1], seed)
    source = f"{len(chosen)} images of '{calibration_folder}'"
    return held_out, CalibrationImages(_read_images(chosen, size), source)


class _FloatScores:
    """The float graph's predictions, kept by what the images hold, as far as memory is allowed."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._kept: dict[bytes, Prediction] = {}
        self._bytes = 0

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Return labels `(n, H, W)` and scores `(n, K, H, W)`."""
        key = hashlib.sha256(np.ascontiguousarray(images).data).digest()
        if key in self._kept:
            return self._kept[key]
        prediction = self._predict(images)
        size = prediction.labels.nbytes + prediction.scores.nbytes
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[key] = prediction
            self._bytes += size
        return prediction


def _name_products(model: ir.Model, scheme: Scheme) -> frozenset[str]:
    return frozenset(str(node.name) for node, _ in list_products(model.graph, scheme))


def _open_reader(model: ir.Model, num_classes: int) -> ScoreReader:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        # Beside the graph, so that no size limit of the format stands in the way.
        ir.save(model, path, external_data="model.data")
        return ScoreReader(path, num_classes)


def _read_batch(model: ir.Model) -> int:
    """Return the graph's batch, 1 where it is dynamic."""
    shape = model.graph.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else 1


def _draw_held_out(
    folder: Path, calibration_paths: Sequence[Path], count: int, seed: int
) -> list[Path]:
    """Return images of a folder; at most half of one that is to be calibrated on as well."""
    paths = find_images([folder])
    shared = {path.resolve() for path in paths} & {path.resolve() for path in calibration_paths}
    return _draw(paths, min(count, (len(paths) + 1) // 2) if shared else count, seed)


def _draw(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [paths[index] for index in sorted(chosen)]


def _read_images(paths: Sequence[Path], size: Size) -> NDArray[np.uint8]:
    return np.stack([resize_image(read_image(path), size) for path in paths])


def _draw_land_cover(
    count: int, size: Size, class_names: Sequence[str], seed: int
) -> HeldOutImages:
    images, labels = LandCover().sample_images("test", count, seed)
    truth = None
    if tuple(class_names) == tuple(name for name, _ in LANDCOVER_CLASSES):
        truth = np.stack([resize_labels(label, size) for label in labels])
    resized = np.stack([resize_image(image, size) for image in images])
    return HeldOutImages(resized, truth, f"{len(images)} land-cover test tiles")
