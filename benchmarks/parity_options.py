"""The options of `python -m benchmarks.parity`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engines.target import Target

_EPILOG = """\
example:
  python -m export.build --model vit_t_landcover --fp32 --target ort --out artifacts/fp32
  python -m export.build --model vit_t_landcover --fp16 --target ort --out artifacts/fp16
  python -m benchmarks.parity --artifact artifacts/fp16 --reference artifacts/fp32 --bisect
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked arguments; exits with 2 and a usage line on wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity",
        description="Compare the labels of artifacts with those of PyTorch in FP32, or of an FP32 "
        "artifact, on the same images: how many change, to what, and how near to boundaries.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--artifact", type=Path, nargs="+", required=True, metavar="DIR")
    add("--target", nargs="+", default=["auto"], metavar="NAME",
        help="what runs each artifact: trt, trt-rtx, ort, openvino or auto (default)",
        )  # fmt: skip
    add("--device", default="0", help="as segvit.evaluate takes it with --artifact (default 0)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="PyTorch's weights (default: the shipped model's)")  # fmt: skip
    source.add_argument("--reference", type=Path, metavar="DIR",
                        help="an FP32 artifact on ONNX Runtime in PyTorch's place")  # fmt: skip
    _add_data_options(parser.add_argument_group("images"))
    _add_bisect_options(parser.add_argument_group("first diverging layer"))
    add("--resamples", type=int, default=1000, metavar="N",
        help="of the bootstrap over images (default %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice of images and the resamples")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--images", type=Path, metavar="DIR", help="images (default: land-cover tiles)")
    add("--masks", type=Path, metavar="DIR", help="grey PNGs of class ids, named as the images")
    add("--classes", type=Path, metavar="FILE", help="a class a line: name, or name,red,green,blue")
    add("--reduce-zero-label", action="store_true", help="0 in the masks means ignored")
    add("--split", choices=("train", "val", "test"), default="test",
        help="of land cover (default %(default)s)")  # fmt: skip
    add("--num-images", type=int, default=64, metavar="N",
        help="drawn at random (default %(default)s)")  # fmt: skip


def _add_bisect_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--bisect", action="store_true",
        help="compare every layer's output; needs --reference")  # fmt: skip
    add("--bisect-target", choices=list(Target), default=Target.ORT, metavar="NAME",
        help="what computes the artifacts' layers: ort, each as it is written (default), or "
        "openvino, trt or trt-rtx, what their compilers leave of them")  # fmt: skip
    add("--bisect-images", type=int, default=2, metavar="N", help="default %(default)s")
    add("--bisect-threshold", type=float, metavar="RMS",
        help="relative error that diverges (default: the gate of the precision's scores)",
        )  # fmt: skip


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for name in ("num_images", "resamples", "bisect_images"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.bisect and arguments.reference is None:
        parser.error("--bisect: needs --reference, the FP32 artifact whose layers are compared")
    if arguments.bisect_threshold is not None and not arguments.bisect_threshold > 0:
        parser.error("--bisect-threshold must be above 0")
    if (arguments.masks is None) != (arguments.classes is None):
        parser.error("--masks and --classes go together")
    if (arguments.masks or arguments.reduce_zero_label) and arguments.images is None:
        parser.error("--masks, --classes and --reduce-zero-label need --images")
