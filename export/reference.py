"""What a build is compared with: the float32 model in PyTorch, whole or sliding.

Shapes: `n` images, `K` classes, `H, W` pixels, `h, w` pixels that the model works on.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.verify import Prediction
from segvit.images import resize_image, resize_labels
from segvit.inference import score_slide
from segvit.model import SegViT, Size
from segvit.prediction import predict_scores


class Reference:
    """Labels `(n, H, W)` and float32 scores `(n, K, h, w)` of uint8 images `(n, H, W, 3)`.

    Args:
        model: in evaluation mode.
        size: (h, w); images of another size are resized, their labels back.
        slides: by the published sliding window, instead of whole images at the input's size.
    """

    def __init__(self, model: SegViT, size: Size, slides: bool = False) -> None:
        self._model, self._size, self._slides = model, size, slides
        side = model.config.image_size
        stride = model.config.stride or side
        self.crop: Size = (side, side)
        self.stride: Size = (stride, stride)

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Return what PyTorch makes of them."""
        predict = partial(predict_scores, self._model)
        height, width = images.shape[1:3]
        if (height, width) != self._size:
            images = np.stack([resize_image(image, self._size) for image in images])
        if not self._slides:
            scores = predict(images)
        else:
            mean = self._model.config.mean
            slid = [score_slide(predict, image, self.crop, self.stride, mean) for image in images]
            scores = np.stack(slid) if len(slid) > 1 else slid[0][None]
        labels = [resize_labels(one, (height, width)) for one in scores.argmax(axis=1)]
        return Prediction(np.stack(labels), scores)
