"""The training loss of attention-to-mask heads.

Fixed matching: query i predicts class i. Classification is a cross entropy with a light weight on
"no object", masks get a sigmoid focal and a dice loss; earlier predictions are supervised alike.
What the terms are divided by depends on labels alone, so the parts of a batch that several devices
or micro-batches share give terms that add up to those of the whole.
Shapes: `B` batch, `K` classes, `P` (image, class) pairs present in the batch, `H, W` label pixels.
Sources: SegViT section 3.4 (arXiv 2210.05844); focal loss (arXiv 1708.02002); dice loss
(arXiv 1606.04797).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segvit.atm import Prediction
from segvit.model import SegViTOutput

IGNORE_LABEL = 255
NO_OBJECT_WEIGHT = 0.1
FOCAL_WEIGHT = 20.0
DICE_WEIGHT = 1.0
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


class ATMLoss(nn.Module):
    """Loss terms of a `SegViTOutput`; their sum is what to minimise.

    An image without any label only pushes its queries to "no object"; ignored pixels count as
    negatives in the mask terms.
    """

    class_weights: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        weights = torch.ones(num_classes + 1)
        weights[-1] = NO_OBJECT_WEIGHT
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, output: SegViTOutput, labels: Tensor, pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return `loss_ce`, `loss_mask` and `loss_dice`, suffixed `_0`, `_1` for earlier stages.

        Args:
            output: what the model returns in training mode.
            labels: int64 `(B, H, W)` of any size, class ids or 255 for ignored pixels.
            pairs: the `count_pairs` of the whole batch that these images are of; default, of them.

        Raises:
            ValueError: if a label is neither a class nor 255.
        """
        present = self._find_present(labels)
        every, found = _count_pairs(present) if pairs is None else pairs
        # The weight of all pairs, and how many masks: what the whole batch's means divide by.
        weight, num_masks = found + NO_OBJECT_WEIGHT * (every - found), found.clamp(min=1)
        classes = torch.where(present, torch.arange(self.num_classes).to(labels), self.num_classes)
        image, label = present.nonzero(as_tuple=True)
        targets = (labels[image] == label[:, None, None]).to(output.mask_logits.dtype)  # (P, H, W)
        losses = {}
        final = Prediction(output.class_logits, output.mask_logits)
        for suffix, prediction in [("", final), *((f"_{i}", p) for i, p in enumerate(output.aux))]:
            cross_entropy = F.cross_entropy(
                prediction.class_logits.float().transpose(1, 2),
                classes,
                self.class_weights,
                reduction="sum",
            )
            masks = prediction.mask_logits[image, label].float()[:, None]  # (P, 1, h, w)
            masks = F.interpolate(masks, targets.shape[-2:], mode="bilinear", align_corners=False)
            focal, dice = mask_losses(masks.flatten(1), targets.flatten(1).float())
            losses[f"loss_ce{suffix}"] = cross_entropy / weight
            losses[f"loss_mask{suffix}"] = FOCAL_WEIGHT * (focal / num_masks)
            losses[f"loss_dice{suffix}"] = DICE_WEIGHT * (dice / num_masks)
        return losses

    def count_pairs(self, labels: Tensor) -> Tensor:
        """Return how many (image, class) pairs there are, and how many of them present, `(2,)`.

        The counts of disjoint parts of a batch add up to the batch's.

        Raises:
            ValueError: if a label is neither a class nor 255.
        """
        return _count_pairs(self._find_present(labels))

    def _find_present(self, labels: Tensor) -> Tensor:
        """Return which classes each image shows, bool `(B, K)`."""
        valid = labels != IGNORE_LABEL
        if bool((valid & ((labels < 0) | (labels >= self.num_classes))).any()):
            raise ValueError(
                f"labels must be 0 to {self.num_classes - 1} or {IGNORE_LABEL}, got values from "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        columns = labels.where(valid, self.num_classes).flatten(1)
        present = labels.new_zeros(len(labels), self.num_classes + 1, dtype=torch.bool)
        return present.scatter_(1, columns, True)[:, : self.num_classes]


def _count_pairs(present: Tensor) -> Tensor:
    found = present.sum()
    return torch.stack([torch.full_like(found, present.numel()), found]).float()


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sigmoid focal and the dice loss, each summed over masks.

    The focal loss of a mask is its pixels' mean.

    Args:
        logits: `(P, H W)` mask logits.
        targets: `(P, H W)` 0 or 1.
    """
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = probabilities + targets - 2 * probabilities * targets
    alpha = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    # Summed before the division by pixels, so that a batch without any mask gives 0 and no NaN.
    focal = (alpha * missed**FOCAL_GAMMA * cross_entropy).sum() / max(logits.shape[1], 1)
    overlap = 2 * (probabilities * targets).sum(dim=1)
    dice = 1 - (overlap + 1) / (probabilities.sum(dim=1) + targets.sum(dim=1) + 1)
    return focal, dice.sum()
