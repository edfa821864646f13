"""The reference on uint8 images."""

import numpy as np
import torch

from segvit.prediction import normalise, predict_scores
from tests.tiny_models import make_config, make_model, random_images


def test_normalised_by_hand() -> None:
    config = make_config()
    pixels = normalise(np.full((1, 2, 4, 3), 100, np.uint8), config)
    assert pixels.shape == (1, 3, 2, 4)
    for channel, (mean, std) in enumerate(zip(config.mean, config.std, strict=True)):
        torch.testing.assert_close(pixels[0, channel, 0, 0].item(), (100 - mean) / std)


def test_batches_do_not_mix() -> None:
    model, images = make_model(make_config()), random_images(3, 64, 64)
    together = predict_scores(model, images)
    alone = np.concatenate([predict_scores(model, image[None]) for image in images])
    assert together.shape == (3, 7, 64, 64)
    np.testing.assert_allclose(together, alone, atol=1e-5)
