"""docs/: every command parses; what needs data that cannot be had here is not run."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from calibration import quantize, sensitivity
from export import build_options, triton
from segvit import evaluate_options, recipes, train_options
from segvit.config import find_variant
from segvit.datasets import prepare

DOCS = Path(__file__).parents[2] / "docs"
PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "segvit.train": train_options.parse_arguments,
    "segvit.evaluate": evaluate_options.parse_arguments,
    "segvit.datasets.prepare": prepare._parse_arguments,
    "calibration.quantize": quantize._parse_arguments,
    "calibration.sensitivity": sensitivity._parse_arguments,
    "export.build": build_options.parse_arguments,
    "export.triton": triton._parse_arguments,
}


def _commands(page: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("page", ["reproduce.md", "training.md", "quantization.md", "triton.md"])
def test_commands_parse(page: str) -> None:
    commands = _commands(page)
    assert len(commands) >= 4
    for command in commands:
        # Through a launcher, the options of the module come after its name.
        words = shlex.split(command.replace("segvit/train.py", "-m segvit.train"))
        module, *options = words[words.index("-m") + 1 :]
        PARSERS[module](options)


def test_every_published_row_is_there() -> None:
    text = (DOCS / "reproduce.md").read_text()
    rows = [name for name in recipes.RECIPES if name != "landcover"]
    assert len(rows) == 7
    for name in rows:
        config = find_variant(recipes.RECIPES[name].model)
        for needed in (
            f"--recipe {name} ",
            f"--checkpoint weights/{config.name}.pth ",
            f"--artifact artifacts/{config.name}-scores ",
            f"`{config.name}`, crop {config.image_size}, stride {config.stride}. **Not run",
        ):
            assert needed in text
