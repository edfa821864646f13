"""What a build is compared with: the float32 model in PyTorch, whole or sliding.

Shapes: `n` images, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.verify import Prediction
from segvit.inference import score_slide
from segvit.model import SegViT, Size
from segvit.prediction import predict_scores


class Reference:
    """Labels `(n, H, W)` and float32 scores `(n, K, H, W)` of uint8 images `(n, H, W, 3)`.

    Args:
        model: in evaluation mode.
        slides: by the published sliding window, instead of whole images at the input's size.
    """

    def __init__(self, model: SegViT, slides: bool = False) -> None:
        self._model, self._slides = model, slides
        side = model.config.image_size
        stride = model.config.stride or side
        self.crop: Size = (side, side)
        self.stride: Size = (stride, stride)

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Return what PyTorch makes of them."""
        predict = partial(predict_scores, self._model)
        if not self._slides:
            scores = predict(images)
        else:
            mean = self._model.config.mean
            slid = [score_slide(predict, image, self.crop, self.stride, mean) for image in images]
            scores = np.stack(slid) if len(slid) > 1 else slid[0][None]
        return Prediction(scores.argmax(axis=1), scores)
