"""The reference model on uint8 images.

Shapes: `B` batch, `K` classes, `H, W` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segvit.config import SegViTConfig
from segvit.model import SegViT


def normalise(
    images: NDArray[np.uint8], config: SegViTConfig, device: torch.device | str = "cpu"
) -> Tensor:
    """Return uint8 RGB `(B, H, W, 3)` as the model's float `(B, 3, H, W)`."""
    pixels = torch.from_numpy(images).to(device).float()
    mean, std = (torch.tensor(value, device=device) for value in (config.mean, config.std))
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


def predict_scores(model: SegViT, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 scores `(B, K, H, W)` of uint8 RGB `(B, H, W, 3)`."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        scores: Tensor = model(normalise(images, model.config, device))
    return scores.cpu().numpy()
