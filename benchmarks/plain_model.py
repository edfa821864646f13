"""The model as anyone would export it, to compare the deploy graph with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segvit.model import SegViT


class PlainModel(nn.Module):
    """The reference as anyone would export it: normalise, run, take the largest score."""

    output = "labels"
    mean: Tensor
    std: Tensor

    def __init__(self, model: SegViT) -> None:
        super().__init__()
        self.model = model.eval()
        mean, std = (torch.tensor(value) for value in (model.config.mean, model.config.std))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, image: Tensor) -> Tensor:
        """Return labels `(B, H, W)` of uint8 `(B, H, W, 3)`."""
        pixels = ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        scores: Tensor = self.model(pixels)
        return scores.argmax(dim=1).to(torch.uint8)
