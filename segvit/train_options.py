"""The options of `python -m segvit.train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from segvit.cli import parse_size
from segvit.config import VARIANTS
from segvit.datasets.named import DATASET_NAMES
from segvit.recipes import RECIPES, DecayRule, Schedule, TrainingSettings

_FOLDER_PATHS = {
    "images": "folder to learn from",
    "masks": "its grey PNGs of class ids, named as the images",
    "val_images": "folder to evaluate on",
    "val_masks": "its masks",
    "classes": "text file, a class a line: name, or name,red,green,blue",
}
# Settings that are numbers: type, lowest and highest value, and what they are.
_NUMBERS: dict[str, tuple[type, float, float, str]] = {
    "max_steps": (int, 1, 10**9, "optimizer steps"),
    "batch_size": (int, 1, 10**6, "images a step, over all devices and micro-batches"),
    "learning_rate": (float, 0, 1e30, "the highest, the backbone's"),
    "head_lr_factor": (float, 0, 1e6, "the decode head's rate over the backbone's"),
    "layer_decay": (float, 0, 1, "each block's rate over the next one's"),
    "weight_decay": (float, 0, 1e6, "AdamW's"),
    "beta2": (float, 0, 1, "AdamW's"),
    "warmup_steps": (int, 0, 10**9, "steps until the highest rate"),
    "power": (float, 0, 100, "of the rate's polynomial decay"),
    "clip_norm": (float, 0, 1e30, "the longest gradient"),
    "dropout": (float, 0, 1, "of the decode head"),
    "ema_decay": (float, 0, 1, "of the average that is evaluated and kept; 0 for none"),
    "eval_every": (int, 0, 10**9, "steps from one evaluation to the next; 0 for none"),
    "seed": (int, 0, 2**31, "of every draw"),
}
_BELOW_ONE = ("beta2", "dropout", "ema_decay")
_ABOVE_ZERO = ("learning_rate", "head_lr_factor", "layer_decay", "clip_norm")
_EPILOG = """\
example:
  python -m segvit.train --model vit_t_landcover --dataset landcover --out runs/landcover
  python -m segvit.train --model vit_b_ade20k --dataset folder --images a/images --masks a/masks \\
      --val-images b/images --val-masks b/masks --classes classes.txt --checkpoint vit_base.npz \\
      --out runs/mine
  python -m segvit.train --recipe ade20k_vit_l --data data/ADEChallengeData2016 \\
      --checkpoint vit_large.npz --devices 8 --strategy ddp --precision bf16-mixed --out runs/ade
"""


def parse_arguments(argv: Sequence[str] | None) -> tuple[TrainingSettings, argparse.Namespace]:
    """Return what the result depends on, and the rest; exits with 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m segvit.train",
        description="Train a SegViT.",
        epilog=f"{_list_recipes()}\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights to start from")
    start.add_argument(
        "--backbone", type=Path, metavar="FILE",
        help="start from the backbone of this SegViT, with a new decode head",
    )  # fmt: skip
    _add_data_options(parser)
    _add_settings(parser.add_argument_group("settings, instead of the recipe's"))
    _add_run_options(parser.add_argument_group("run"))
    arguments = parser.parse_args(argv)
    given = {
        name: value
        for name in TrainingSettings.__dataclass_fields__
        if (value := getattr(arguments, name)) is not None
    }
    settings = replace(RECIPES[arguments.recipe], **given)
    _check_settings(parser, settings)
    _check_data(parser, settings.dataset, arguments)
    for name in ("accumulate", "devices", "num_nodes", "log_every"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"{_option(name)} must be at least 1")
    if arguments.workers < 0:
        parser.error("--workers must be at least 0")
    return settings, arguments


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--recipe", choices=list(RECIPES), default="landcover", metavar="NAME",
        help="model, data set and settings, see below (default %(default)s)")  # fmt: skip
    add("--model", choices=list(VARIANTS), metavar="NAME", help="instead of the recipe's")
    add("--dataset", choices=("landcover", "folder", *DATASET_NAMES),
        help="instead of the recipe's")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="the data set's folder, as mmsegmentation has it")
    folder = parser.add_argument_group("with --dataset folder")
    for name, what in _FOLDER_PATHS.items():
        folder.add_argument(_option(name), type=Path, metavar="PATH", help=what)
    folder.add_argument(
        "--reduce-zero-label", action="store_true", help="0 in the masks means ignored"
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    for name, (kind, _, _, what) in _NUMBERS.items():
        group.add_argument(_option(name), type=kind, metavar="N", help=what)
    group.add_argument("--decays", choices=get_args(DecayRule), help="what weight decay shrinks")
    group.add_argument("--schedule", choices=get_args(Schedule), help="of the rate")
    group.add_argument(
        "--resize", type=parse_size, metavar="LONGxSHORT",
        help="the longest sides of an image before it is scaled by 0.5 to 2; not of land cover",
    )  # fmt: skip


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--accumulate", type=int, default=1, metavar="N",
        help="micro-batches a step, one after the other: less memory, the same step")  # fmt: skip
    add("--checkpoint-activations", action="store_true",
        help="recompute the backbone's activations: less memory, the same step")  # fmt: skip
    add("--workers", type=int, default=2, metavar="N",
        help="processes a device that prepare batches (default %(default)s)")  # fmt: skip
    add("--log-every", type=int, default=50, metavar="STEPS", help="rows of log.csv (default 50)")
    add("--device", default="auto", help="auto, cpu or cuda (default auto)")
    add("--devices", type=int, metavar="N", help="a node (default 1)")
    add("--num-nodes", type=int, default=1, metavar="N", help="default 1")
    add("--strategy", choices=("auto", "ddp"), default="auto", help="default auto")
    add("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), help="default 32-true")
    add("--half", action="store_true", help="write the weights as float16")
    add("--resume", action="store_true", help="go on from the folder's last state")
    add("--json", action="store_true", help="print the result as JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")


def _check_settings(parser: argparse.ArgumentParser, settings: TrainingSettings) -> None:
    for name, (_, low, high, _) in _NUMBERS.items():
        value = getattr(settings, name)
        if name in _ABOVE_ZERO and value <= 0:
            parser.error(f"{_option(name)} must be above 0")
        if value < low:
            parser.error(f"{_option(name)} must be at least {low}")
        if name in _BELOW_ONE and value >= 1:
            parser.error(f"{_option(name)} must be below 1")
        if not value <= high:
            parser.error(f"{_option(name)} must be at most {high}")


def _check_data(parser: argparse.ArgumentParser, dataset: str, arguments: Any) -> None:
    given = [name for name in _FOLDER_PATHS if getattr(arguments, name) is not None]
    wanted = list(_FOLDER_PATHS) if dataset == "folder" else []
    if given != wanted or (arguments.reduce_zero_label and not wanted):
        options = ", ".join(_option(name) for name in _FOLDER_PATHS)
        parser.error(f"--dataset folder needs all of {options}, and no other takes them")
    if (arguments.data is not None) != (dataset in DATASET_NAMES):
        parser.error(
            f"--dataset {dataset} takes no --data"
            if arguments.data is not None
            else f"--dataset {dataset} needs --data, its folder"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _list_recipes() -> str:
    """Return a table of the recipes."""
    columns = ("recipe", "model", "dataset", "max_steps", "learning_rate", "head_lr_factor",
               "weight_decay", "power")  # fmt: skip
    heads = ("recipe", "model", "data set", "steps", "rate", "head times", "decay", "power")
    rows = [[str(getattr(settings, column, name)) for column in columns]
            for name, settings in RECIPES.items()]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (heads, *rows))
    return "recipes:\n" + "\n".join(f"  {line}" for line in lines)
