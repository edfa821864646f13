"""`segvit.inference` against frozen outputs of the original implementation."""

import json
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segvit.checkpoint import load_checkpoint
from segvit.config import find_variant
from segvit.images import Size
from segvit.inference import (
    Predict,
    Protocol,
    Scores,
    average_views,
    label_image,
    label_scores,
    list_windows,
    rescale_size,
    resize_bilinear,
    score_slide,
    score_views,
)
from segvit.model import SegViT
from tests.tiny_models import GOLDEN
from tests.tolerances import GOLDEN_LABELS, GOLDEN_SCORES

TABLE = json.loads((GOLDEN / "resize_table.json").read_text())
FILL = (0.0, 0.0, 0.0)
CROP, STRIDE = (64, 64), (43, 43)


@lru_cache(maxsize=2)
def _model(name: str) -> SegViT:
    return load_checkpoint(GOLDEN / f"{name}.pth")


def _predictor(name: str) -> Predict:
    """Normalised float crops `(B, h, w, 3)` to scores, as the golden inputs are normalised."""
    model = _model(name)

    def predict(crops: NDArray[np.float32]) -> Scores:
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
            return model(image).numpy()

    return predict


def _golden(name: str) -> NDArray[np.float32]:
    with np.load(GOLDEN / "inference.npz") as arrays:
        return arrays[name]


def _image(name: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(_golden(name)[0].transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["base_s0", "shrunk_s0"])
def test_sliding_windows(name: str) -> None:
    scores = score_slide(_predictor(name), _image("img"), CROP, STRIDE, FILL, batch_size=4)
    assert np.abs(scores - _golden(f"{name}/slide_preds")[0]).max() < GOLDEN_SCORES
    size = (75, 113)
    resized = np.stack([resize_bilinear(plane, size) for plane in scores])
    assert np.abs(resized - _golden(f"{name}/slide_rescaled")[0]).max() < GOLDEN_SCORES
    prob = average_views(iter([scores]), size)
    assert np.abs(prob - _golden(f"{name}/prob")[0]).max() < GOLDEN_SCORES
    labels = label_scores(scores, size)
    assert (labels == _golden(f"{name}/seg")).mean() >= GOLDEN_LABELS
    assert (labels == resized.argmax(axis=0)).all()


def test_windows_of_two_images() -> None:
    """The original took an image and its mirror image as one batch."""
    for index, image in enumerate((_image("img"), _image("img")[:, ::-1])):
        scores = score_slide(_predictor("base_s0"), image, CROP, STRIDE, FILL, batch_size=4)
        expected = _golden("base_s0/slide_batch2_first_seg")[index]
        assert (label_scores(scores, (75, 113)) == expected).mean() >= GOLDEN_LABELS


def test_two_scales_and_flips() -> None:
    """Views of two sizes, each also flipped; all averaged at the original size."""
    predict = _predictor("base_s0")
    views: list[Scores] = []
    for image in (_image("aug_imgA"), _image("img")):
        protocol = Protocol(min(image.shape[:2]), crop=CROP, stride=STRIDE, flip=True)
        views += score_views(predict, image, protocol, FILL)
    assert len(views) == 4
    prob = average_views(iter(views), (75, 113))
    assert np.abs(prob - _golden("base_s0/aug_prob")[0]).max() < GOLDEN_SCORES
    assert (prob.argmax(axis=0) == _golden("base_s0/aug_seg")).mean() >= GOLDEN_LABELS


def test_whole_and_flipped() -> None:
    """The original is given the view that is flipped already, and turns its scores back."""
    image = _image("whole_img")[:, ::-1]
    protocol = Protocol(128, flip=True)
    _, flipped = score_views(_predictor("base_s0"), image, protocol, FILL)
    prob = average_views(iter([flipped]), (90, 70))
    assert np.abs(prob - _golden("base_s0/whole_prob_flip")[0]).max() < GOLDEN_SCORES
    labels = prob.argmax(axis=0)
    assert (labels == _golden("base_s0/whole_seg_flip")[0]).mean() >= GOLDEN_LABELS


@pytest.mark.parametrize("row", TABLE["table"], ids=lambda r: f"{r['h']}x{r['w']}")
def test_published_sizes(row: dict[str, Any]) -> None:
    shortest = row["img_scale"][1]
    size = rescale_size((row["h"], row["w"]), shortest, row["min_size"])
    assert size == (row["out_h"], row["out_w"])


@pytest.mark.parametrize("row", TABLE["multiscale"], ids=lambda r: f"{r['ratio']}-{r['h']}")
def test_published_multi_scale_sizes(row: dict[str, Any]) -> None:
    size = rescale_size((row["h"], row["w"]), 512, row["min_size"], row["ratio"])
    assert size == (row["out_h"], row["out_w"])


def test_the_published_protocols() -> None:
    """PASCAL-Context's images are larger than its crop; only its sides are kept from shrinking."""
    ade, pascal = (find_variant(name) for name in ("vit_l_ade20k", "vit_l_pascal_context"))
    sides = [(c.short_side or c.image_size, c.image_size, c.stride or 0) for c in (ade, pascal)]
    assert sides == [(640, 640, 608), (520, 480, 320)]
    protocols = [
        Protocol.published((crop, crop), (stride, stride), short_side)
        for short_side, crop, stride in sides
    ]
    assert [(p.short_side, p.least_side) for p in protocols] == [(640, None), (520, 480)]
    scaled = Protocol.published((640, 640), (608, 608), 640, multi_scale=True, flip=True)
    assert (scaled.least_side, len(scaled.scales), scaled.flip) == (640, 6, True)
    whole = Protocol.published((640, 640), (608, 608), 640, slides=False)
    assert (whole.crop, whole.stride) == (None, None)


def test_windows_cover_the_image_and_clamp_to_its_edge() -> None:
    assert list_windows((100, 150), CROP, STRIDE) == [
        (0, 0), (0, 43), (0, 86), (36, 0), (36, 43), (36, 86),
    ]  # fmt: skip
    assert list_windows((64, 64), CROP, STRIDE) == [(0, 0)]
    assert list_windows((40, 70), CROP, STRIDE) == [(0, 0), (0, 6)]


def _position_scores(crops: NDArray[np.uint8]) -> Scores:
    """Scores that are the pixels themselves, so that averaging must give the image back."""
    return crops.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("size", [(100, 150), (64, 64), (40, 200), (10, 20)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_overlaps_average_and_padding_is_cut_off(size: Size, batch_size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    shapes = []

    def predict(crops: NDArray[np.uint8]) -> Scores:
        shapes.append(crops.shape)
        return _position_scores(crops)

    scores = score_slide(predict, image, CROP, STRIDE, (1, 2, 3), batch_size)
    assert np.allclose(scores, image.transpose(2, 0, 1), atol=1e-4)
    assert all(1 <= shape[0] <= batch_size and shape[1:] == (*CROP, 3) for shape in shapes)


def test_labels_come_at_the_images_own_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for protocol in (
        Protocol(64, crop=CROP, stride=STRIDE),
        Protocol(64, crop=CROP, stride=STRIDE, scales=(0.5, 1.5), flip=True, least_side=64),
        Protocol(37),
    ):
        labels = label_image(_position_scores, image, protocol, (127, 127, 127))
        assert labels.shape == (37, 53)
    # The whole image at its own size: the brightest channel wins.
    assert (labels == image.argmax(axis=2)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": CROP}, "crop and stride go together"),
        ({"crop": CROP, "stride": (65, 64)}, r"stride of 1 to the crop \(64, 64\), got \(65, 64\)"),
        ({"scales": (0.0,)}, "scales above 0"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_bad_protocols(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(**{"short_side": 64, **values})
