"""`segvit.recipes`: a recipe a published row, with its model, data and schedule."""

import re

import pytest

from segvit.config import find_variant
from segvit.datasets.named import DATASET_NAMES
from segvit.recipes import RECIPES

# Data set, steps, weight decay and power of each row, from its published configuration.
ROWS = {
    "ade20k": (160_000, 0.01, 1.0),
    "coco_stuff10k": (80_000, 0.02, 2.0),
    "pascal_context": (80_000, 0.03, 1.0),
}


def test_there_are_seven_published_rows() -> None:
    assert len(RECIPES) == 1 + 7


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "landcover"])
def test_a_recipe_has_its_row_s_model_and_data(name: str) -> None:
    recipe = RECIPES[name]
    dataset, size, shrunk = re.fullmatch(r"(\w+)_(vit_[bl])(_shrunk)?", name).groups()
    assert recipe.dataset == dataset
    assert dataset in DATASET_NAMES
    assert recipe.model == f"{size}{shrunk or ''}_{dataset}"
    assert (recipe.max_steps, recipe.weight_decay, recipe.power) == ROWS[dataset]
    assert (recipe.learning_rate, recipe.head_lr_factor, recipe.batch_size) == (2e-5, 10, 16)
    assert find_variant(recipe.model).num_classes in (150, 171, 60)


def test_land_cover_s_is_what_its_shipped_weights_were_made_with() -> None:
    recipe = RECIPES["landcover"]
    assert (recipe.max_steps, recipe.batch_size, recipe.learning_rate) == (4000, 16, 5e-4)
    assert (recipe.weight_decay, recipe.beta2, recipe.warmup_steps) == (0.05, 0.98, 100)
    assert (recipe.clip_norm, recipe.ema_decay, recipe.dropout) == (1.0, 0.998, 0.1)
    assert (recipe.decays, recipe.schedule) == ("matrices", "poly-after-warmup")
