"""`python -m segvit.datasets.prepare`: raw annotations of published data sets to masks.

COCO-Stuff 10K and PASCAL-Context were released as MATLAB or JSON files; ADE20K's masks are images
already.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from segvit.datasets.coco_stuff_conversion import prepare_coco_stuff10k
from segvit.datasets.conversion import Prepared
from segvit.datasets.pascal_context_conversion import prepare_pascal_context

_PREPARE: dict[str, Callable[[Path, int, bool], Prepared]] = {
    "coco_stuff10k": prepare_coco_stuff10k,
    "pascal_context": prepare_pascal_context,
}
_EPILOG = """\
example:
  python -m segvit.datasets.prepare coco_stuff10k --root data/coco_stuff10k
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare one data set; run again, it goes on where it was interrupted."""
    arguments = _parse_arguments(argv)
    prepare = _PREPARE[arguments.dataset]
    if not arguments.root.is_dir():
        raise FileNotFoundError(2, "no such folder", str(arguments.root))
    done = prepare(arguments.root, arguments.workers, not arguments.json)
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"dataset": arguments.dataset, **asdict(done)}, indent=2))
    else:
        print(_describe(arguments.dataset, done))
    return 0


def _describe(dataset: str, done: Prepared) -> str:
    """Return the files written, and the counts last."""
    images = f"images: {done.images_linked} linked, {done.images_copied} copied"
    placed = (
        f"; {images}, {done.images_skipped} already there" if dataset == "coco_stuff10k" else ""
    )
    return "\n".join(
        [
            f"masks of {done.annotations}",
            *(f"wrote {path}" for path in done.lists_written),
            f"{dataset}: {done.masks_written} masks written, {done.masks_skipped} already "
            f"there{placed}",
        ]
    )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m segvit.datasets.prepare",
        description="Make masks of a data set's raw annotations, in the layout that training and "
        "evaluation open. The released files stay as they are. ADE20K needs no preparation; "
        "pascal_context serves pascal_context_59 too.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    workers = min(8, os.cpu_count() or 1)
    parser.add_argument("dataset", choices=tuple(_PREPARE), metavar="DATASET",
                        help=f"one of: {', '.join(_PREPARE)}")  # fmt: skip
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the released data")
    parser.add_argument(
        "--workers", type=int, default=workers, help="threads (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
