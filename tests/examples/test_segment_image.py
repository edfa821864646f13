from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.runtime import open_runtime
from examples.segment_image import main
from segvit.images import draw_overlay, resize_labels
from tests.triton_server.artifacts import make_artifact


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_an_image_becomes_its_overlay(batch: int | str, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact", batch=batch)
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    image = cv2.resize(coarse, (130, 96))
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    assert main([str(artifact), str(tmp_path / "photo.png"), str(tmp_path / "overlay.png")]) == 0
    overlay = cv2.imread(str(tmp_path / "overlay.png"))
    with open_runtime(artifact) as runtime:
        images = np.stack([cv2.resize(image, (64, 64))] * runtime.batch[0])
        labels = resize_labels(runtime.infer(images)[0], (96, 130))
        expected = draw_overlay(
            np.asarray(image, np.uint8), labels, runtime.classes, runtime.palette
        )
    assert overlay is not None
    assert np.array_equal(overlay[..., ::-1], expected)
