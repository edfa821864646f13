"""The settings a training run's result depends on, and the published ones by name.

Sources: the configurations published with SegViT (arXiv 2210.05844): for ViT-L AdamW at 2e-5, ten
times that for the decode head, weight decay 0.01, 0.02 or 0.03 by data set, linear warm-up of
1,500 steps from 1e-6 of the rate, polynomial decay to 0 (power 1, on COCO-Stuff-10K 2), gradients
clipped at 35, 160,000 steps on ADE20K and 80,000 on the others. ADE20K's and PASCAL Context's
batches of 16 are its authors' word (8 devices of 2 images, 4 of 4). Not verified: COCO-Stuff-10K's
batch (2 images a device; 8 devices are assumed), and ViT-B's row, whose configuration its authors
published elsewhere, in a fork, without a batch size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

DecayRule = Literal["matrices", "all-but-backbone-norms"]
Schedule = Literal["poly", "poly-after-warmup"]


@dataclass(frozen=True)
class TrainingSettings:
    """What a run does, however many devices do it.

    Args:
        model: a variant.
        dataset: what it learns.
        max_steps: optimizer steps.
        batch_size: images a step, over all devices and micro-batches.
        learning_rate: the highest, the backbone's.
        weight_decay: AdamW's.
        warmup_steps: steps until the highest rate.
        seed: of every draw.
        head_lr_factor: the decode head's rate over the backbone's.
        layer_decay: each block's rate over the next one's; 1 for none.
        decays: which parameters weight decay shrinks.
        schedule: of the rate; see `segvit.optimizer.learning_rate_at`.
        power: of its polynomial.
        beta2: AdamW's.
        clip_norm: the longest gradient.
        dropout: the decode head's.
        ema_decay: of the average that is evaluated and kept; 0 for the weights themselves.
        resize: the longest (long, short) sides of an image before it is scaled by 0.5 to 2; None
            for 2048 and the model's crop. Land cover has no use for it.
        eval_every: steps from one evaluation to the next; 0 for none.
    """

    model: str = "vit_t_landcover"
    dataset: str = "landcover"
    max_steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 100
    seed: int = 0
    head_lr_factor: float = 1.0
    layer_decay: float = 1.0
    decays: DecayRule = "matrices"
    schedule: Schedule = "poly-after-warmup"
    power: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    dropout: float = 0.1
    ema_decay: float = 0.998
    resize: tuple[int, int] | None = None
    eval_every: int = 250


_ADE20K = TrainingSettings(
    model="vit_l_ade20k",
    dataset="ade20k",
    max_steps=160_000,
    learning_rate=2e-5,
    head_lr_factor=10.0,
    weight_decay=0.01,
    warmup_steps=1500,
    decays="all-but-backbone-norms",
    schedule="poly",
    power=1.0,
    beta2=0.999,
    clip_norm=35.0,
    ema_decay=0.0,
    eval_every=4000,
)
_COCO = replace(
    _ADE20K,
    model="vit_l_coco_stuff10k",
    dataset="coco_stuff10k",
    max_steps=80_000,
    weight_decay=0.02,
    power=2.0,
)
# The published models have 60 classes, the background one of them; the published figures are of
# the 59 others.
_PASCAL = replace(
    _ADE20K,
    model="vit_l_pascal_context",
    dataset="pascal_context",
    max_steps=80_000,
    weight_decay=0.03,
    resize=(520, 520),
)

RECIPES: dict[str, TrainingSettings] = {
    "landcover": TrainingSettings(),
    "ade20k_vit_b": replace(_ADE20K, model="vit_b_ade20k"),
    "ade20k_vit_l": _ADE20K,
    "ade20k_vit_l_shrunk": replace(_ADE20K, model="vit_l_shrunk_ade20k"),
    "coco_stuff10k_vit_l": _COCO,
    "coco_stuff10k_vit_l_shrunk": replace(_COCO, model="vit_l_shrunk_coco_stuff10k"),
    "pascal_context_vit_l": _PASCAL,
    "pascal_context_vit_l_shrunk": replace(_PASCAL, model="vit_l_shrunk_pascal_context"),
}
