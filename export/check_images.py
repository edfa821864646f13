"""Real images to verify a build on, with ground truth where there is some.

Shapes: `n` images, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segvit.config import LANDCOVER_CLASSES, SegViTConfig
from segvit.datasets.folder import FolderDataset, Sample
from segvit.datasets.landcover import TILE, LandCover
from segvit.images import find_images, read_image, resize_image, resize_labels
from segvit.metrics import IGNORE_LABEL
from segvit.model import Size

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Masks:
    """The user's folder of ground truth: grey PNGs of class ids, of the images' names."""

    folder: Path
    reduce_zero_label: bool = False


@dataclass(frozen=True)
class CheckImages:
    """uint8 images `(n, H, W, 3)` and labels `(n, H, W)`, or None where nobody knows them.

    An image without a mask among others that have one is all 255. `independent_shares` `(n,)` are
    of each image's pixels: those of an enlarged image repeat their neighbors. `is_foreign` says
    that the images are land cover's and the model's classes are not.
    """

    images: Pixels
    truth: Pixels | None
    source: str
    independent_shares: NDArray[np.float64] | None = None
    is_foreign: bool = False


def has_landcover_classes(class_names: Sequence[str]) -> bool:
    """Return whether a model's classes are those of the land-cover map."""
    return tuple(class_names) == tuple(name for name, _ in LANDCOVER_CLASSES)


def load_check_images(
    folder: Path | None,
    config: SegViTConfig,
    size: Size,
    count: int,
    seed: int,
    split: str = "test",
    masks: Masks | None = None,
    model_size: Size | None = None,
) -> CheckImages:
    """Return images of the engine's size.

    Args:
        folder: the user's images, resized; None takes land-cover tiles, which carry labels for
            the land-cover classes and are plain satellite images to any other model.
        split: of the land-cover tiles.
        masks: ground truth of the folder's images, or of some of them, which are then drawn first.
        model_size: (height, width) that the model works on, where images are resized to it.

    Raises:
        ValueError: if the folder has no readable image, or no mask fits any of them, or one does
            not fit its image or the classes.
        FileNotFoundError: if the land-cover wheels are missing, or a folder is.
    """
    model_size = model_size or size
    if folder is not None:
        return _load_folder(folder, config, size, count, seed, masks, model_size)
    images, labels = LandCover().sample_images(split, count, seed)
    resized = np.stack([resize_image(image, size) for image in images])
    source = f"{len(images)} land-cover {split} tiles"
    shares = np.full(len(images), _share_independent((TILE, TILE), size, model_size))
    if not has_landcover_classes(config.class_names):
        return CheckImages(resized, None, source, shares, is_foreign=True)
    truth = np.stack([resize_labels(label, size) for label in labels]).astype(np.uint8)
    return CheckImages(resized, truth, source, shares)


def _load_folder(
    folder: Path,
    config: SegViTConfig,
    size: Size,
    count: int,
    seed: int,
    masks: Masks | None,
    model_size: Size,
) -> CheckImages:
    paths = find_images([folder])
    drawn = np.random.default_rng(seed).permutation(len(paths)).tolist()
    found = {} if masks is None else _find_masks(paths, folder, masks.folder)
    # Those with a mask first: the others count for agreement alone.
    drawn = sorted(drawn, key=lambda index: paths[index].stem not in found)[:count]
    data = FolderDataset(
        (), config.class_names, config.palette, masks is not None and masks.reduce_zero_label
    )
    images, truth, shares = [], [], []
    for path in (paths[index] for index in sorted(drawn)):
        if path.stem in found:
            image, mask = data.read(Sample(path, found[path.stem]))
            truth.append(resize_labels(mask, size).astype(np.uint8))
        else:
            image = read_image(path)
            truth.append(np.full(size, IGNORE_LABEL, np.uint8))
        images.append(resize_image(image, size))
        shares.append(_share_independent((image.shape[0], image.shape[1]), size, model_size))
    source = f"{len(images)} images of '{folder}'"
    if masks is None:
        return CheckImages(np.stack(images), None, source, np.array(shares))
    known = [bool((labels != IGNORE_LABEL).any()) for labels in truth]
    if not any(known):
        raise ValueError(
            f"masks of '{masks.folder}': expected class ids, got {IGNORE_LABEL} (ignored) in every "
            "pixel; give masks that name classes, or leave out --masks"
        )
    source += f", {sum(known)} with masks of '{masks.folder}'"
    return CheckImages(np.stack(images), np.stack(truth), source, np.array(shares))


def _find_masks(paths: Sequence[Path], folder: Path, masks: Path) -> dict[str, Path]:
    """Return the masks that have an image of the same name, by that name.

    Raises:
        ValueError: if there is none.
    """
    stems = {path.stem for path in paths}
    found = {path.stem: path for path in find_images([masks])}
    fitting = {stem: path for stem, path in found.items() if stem in stems}
    if not fitting:
        raise ValueError(
            f"masks of '{masks}': expected names of images in '{folder}', such as "
            f"'{paths[0].stem}.png', got none in {len(found)} (first: {min(found)}); rename them"
        )
    return fitting


def _share_independent(source: Size, size: Size, model_size: Size) -> float:
    """Return the share of an image's pixels that are independent, where it is enlarged."""
    share = 1.0
    for sides in zip(source, size, model_size, strict=True):
        share *= min(sides) / sides[1]
    return share
