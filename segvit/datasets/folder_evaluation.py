"""The published protocols on a folder of images and masks."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from segvit.datasets.folder import FolderDataset
from segvit.inference import Predict, Protocol, label_image
from segvit.metrics import ConfusionMatrix


def evaluate_folder(
    predict: Predict,
    data: FolderDataset,
    protocol: Protocol,
    fill: Sequence[float],
    progress: bool = True,
) -> ConfusionMatrix:
    """Return the confusion matrix of a folder, each image at its own size.

    Args:
        predict: crops `(B, h, w, 3)` to scores `(B, K, h, w)`.
        data: images and masks.
        protocol: how an image becomes labels.
        fill: the pixel to pad small images with.
        progress: show a bar.
    """
    matrix = ConfusionMatrix(len(data.class_names))
    for image, mask in tqdm(data, unit="image", disable=not progress, leave=False):
        matrix.update(label_image(predict, image, protocol, fill), mask)
    return matrix
