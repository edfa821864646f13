"""The options of `python -m segvit.evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segvit.datasets.named import DATASET_NAMES
from segvit.inference import MULTI_SCALES
from segvit.shipped import SHIPPED_MODELS

FOLDER_OPTIONS = ("images", "masks", "classes", "reduce_zero_label")
_EPILOG = """\
example:
  python -m segvit.evaluate --model vit_t_landcover --dataset landcover --split test
  python -m segvit.evaluate --checkpoint vit_l_ade20k.pth --dataset ade20k \\
      --data data/ADEChallengeData2016 --multi-scale --flip --devices 8 --device cuda --out eval
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; exits with 2 where they contradict each other."""
    parser = argparse.ArgumentParser(
        prog="python -m segvit.evaluate",
        description="Measure the mIoU of a checkpoint or of an artifact: by the published "
        "protocols on a data set or any folder of masks; on land cover beside colour alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE")
    source.add_argument("--artifact", type=Path, metavar="DIR",
                        help="made by export.build --output scores; no torch needed")  # fmt: skip
    source.add_argument("--model", choices=SHIPPED_MODELS, default=SHIPPED_MODELS[0],
                        help="a shipped checkpoint (default %(default)s)")  # fmt: skip
    _add_data_options(parser)
    _add_protocol_options(parser.add_argument_group("protocol"))
    _add_run_options(parser.add_argument_group("run"))
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    names = ("landcover", "folder", *DATASET_NAMES)
    parser.add_argument("--dataset", choices=names, default="landcover")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the data set's folder, as mmsegmentation has it"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="default test of landcover, val of others"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="with --dataset landcover --mode: cut the map into images of this side (default 512)",
    )  # fmt: skip
    folder = parser.add_argument_group("with --dataset folder")
    add = folder.add_argument
    add("--images", type=Path, metavar="DIR", help="images")
    add("--masks", type=Path, metavar="DIR", help="grey PNGs of class ids, named as the images")
    add("--classes", type=Path, metavar="FILE", help="a class a line: name, or name,red,green,blue")
    add("--reduce-zero-label", action="store_true", help="0 in the masks means ignored")


def _add_protocol_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--mode", choices=("whole", "slide"),
        help="default slide, with the model's crop and stride; landcover has tiles of its own",
    )  # fmt: skip
    add("--multi-scale", action="store_true", help=f"average scales {MULTI_SCALES}")
    add("--flip", action="store_true", help="average with the mirrored image")
    add("--batch-size", type=int, metavar="N",
        help="crops a call (default 16 on landcover's tiles, else 1)")  # fmt: skip


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--target", default="auto", help="with --artifact: trt, trt-rtx or ort (default auto)")
    add("--digest", metavar="SHA256",
        help="with --artifact: refuse any but that of this digest, which builds print")  # fmt: skip
    add("--device", help="cpu, cuda or cuda:N; with --artifact also a GPU's number (default cpu)")
    add("--devices", type=int, default=1, metavar="N", help="processes, one a GPU (default 1)")
    add("--skip-unreadable", action="store_true", help="count damaged files instead of stopping")
    add("--out", type=Path, metavar="DIR",
        help="write report.json, classes.csv and images.csv there")  # fmt: skip
    add("--save-worst", type=int, default=0, metavar="K",
        help="also draw the K images of the lowest mIoU there")  # fmt: skip
    add("--resume", action="store_true", help="go on with what an interrupted run left in --out")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what contradicts itself, then fill in the defaults that depend on other options."""
    for name in ("batch_size", "devices", "image_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.save_worst < 0:
        parser.error("--save-worst must be at least 0")
    if (arguments.resume or arguments.save_worst) and arguments.out is None:
        parser.error("--resume and --save-worst need --out")
    if arguments.target != "auto" and arguments.artifact is None:
        parser.error("--target: only with --artifact")
    if arguments.digest is not None and arguments.artifact is None:
        parser.error("--digest: only with --artifact")
    _check_data(parser, arguments)
    on_tiles = arguments.dataset == "landcover" and arguments.mode is None
    if on_tiles and (arguments.multi_scale or arguments.flip or arguments.image_size):
        parser.error("--multi-scale, --flip, --image-size on landcover: say --mode slide or whole")
    if not on_tiles:
        arguments.mode = arguments.mode or "slide"
    arguments.image_size = arguments.image_size or 512
    arguments.batch_size = arguments.batch_size or (16 if on_tiles else 1)


def _check_data(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    name = arguments.dataset
    named = {
        f"--{option.replace('_', '-')}": getattr(arguments, option) for option in FOLDER_OPTIONS
    }
    if name == "folder":
        missing = [option for option in list(named)[:3] if named[option] is None]
        if missing:
            parser.error(f"--dataset folder needs {', '.join(missing)}")
    elif given := [option for option, value in named.items() if value]:
        parser.error(f"{', '.join(given)}: only with --dataset folder")
    if (name in DATASET_NAMES) != (arguments.data is not None):
        parser.error(f"--data: needed with --dataset {', '.join(DATASET_NAMES)}, and only there")
    if arguments.image_size and name != "landcover":
        parser.error("--image-size: only with --dataset landcover")
    splits = {"landcover": ("test", "val"), "folder": ()}.get(name, ("val", "train"))
    if arguments.split and arguments.split not in splits:
        expected = f"one of {', '.join(splits)}" if splits else "none"
        parser.error(f"--split of {name}: expected {expected}, got {arguments.split}")
    arguments.split = arguments.split or next(iter(splits), None)
