"""The command line of `python -m export.build`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from calibration.observers import Method
from calibration.quantization import DEFAULT_METHOD
from calibration.scheme import SCHEMES
from engines.roofline import DEFAULT_GPU, GPUS
from export.passes import ATTENTION_FORMS
from segvit.cli import parse_batch, parse_size
from segvit.config import VARIANTS
from segvit.shipped import SHIPPED_MODELS

_EPILOG = """\
example:
  python -m export.build --model vit_t_landcover --fp16 --target ort --target trt-rtx
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked arguments; exits with 2 and a usage line on wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m export.build",
        description="Build a checked artifact (ONNX and engines) from a SegViT checkpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model_options(parser.add_argument_group("model"))
    _add_graph_options(parser)
    _add_engine_options(parser.add_argument_group("engines"))
    _add_calibration_options(parser.add_argument_group("quantisation, with --int8 and --fp8"))
    _add_verification_options(parser.add_argument_group("verification"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, metavar="DIR", help="default artifacts/<model>-<HxW>-<precision>"
    )
    output.add_argument("--json", action="store_true", help="print the manifest, nothing else")
    output.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.ranges and arguments.calibration_images:
        parser.error("--ranges and --calibration-images exclude each other")
    if arguments.masks and not arguments.images:
        parser.error("--masks: only with --images, whose ground truth they are")
    if arguments.reduce_zero_label and not arguments.masks:
        parser.error("--reduce-zero-label: only with --masks")
    _check_quantisation(parser, arguments)
    _check_attention(parser, arguments)
    _check_mode(parser, arguments)
    _check_fused_tail(parser, arguments)
    return arguments


def public_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the options that decide what is built, as they would be typed."""
    size = arguments.size and f"{arguments.size[0]}x{arguments.size[1]}"
    checkpoint = arguments.checkpoint and arguments.checkpoint.name
    options = [f"--{arguments.precision}", f"--output={arguments.output}"]
    if arguments.mode == "slide":
        height, width = arguments.image_size
        options += ["--mode=slide", f"--image-size={height}x{width}"]
        options += [f"--window-batch={arguments.window_batch}"] if arguments.window_batch else []
    source = arguments.resize_from and f"{arguments.resize_from[0]}x{arguments.resize_from[1]}"
    named = {"--model": arguments.model, "--checkpoint": checkpoint, "--size": size,
             "--resize-from": source}  # fmt: skip
    options += [f"{option}={value}" for option, value in named.items() if value]
    options += ["--random-weights"] if arguments.random_weights else []
    options += ["--fused-tail"] if arguments.fused_tail else []
    options += ["--allow-foreign-images"] if arguments.allow_foreign_images else []
    options += [f"--attention={arguments.attention}"] if arguments.attention else []
    options += ["--quantise-attention"] if arguments.quantise_attention else []
    if arguments.precision in SCHEMES:
        options += [f"--float-type={arguments.float_type}"]
    if arguments.max_miou_drop is not None:
        options += [f"--max-miou-drop={arguments.max_miou_drop:g}"]
    options += [f"--batch={':'.join(map(str, arguments.batch))}"]
    return [*options, f"--tail-strips={arguments.tail_strips}", f"--seed={arguments.seed}"]


def _check_mode(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse options that make no sense in the mode asked for, or with images of another size."""
    if arguments.resize_from and arguments.output == "scores":
        parser.error("--resize-from: not with --output scores, which stay at the model's size")
    if arguments.resize_from and arguments.max_miou_drop is not None:
        parser.error("--resize-from: not with --max-miou-drop; search without it")
    if arguments.mode == "whole":
        for name, value in (("--image-size", arguments.image_size),
                            ("--window-batch", arguments.window_batch)):  # fmt: skip
            if value:
                parser.error(f"{name}: only with --mode slide")
        return
    if not arguments.image_size:
        parser.error("--mode slide: say how large images are with --image-size HxW")
    refused = {
        "--size: windows have the size that the model was trained at": arguments.size,
        "--batch: it takes one image a call": arguments.batch != (1, 1, 1),
        "--output scores: it gives labels": arguments.output != "labels",
        "--tail-strips: its tail is cut into cells already": arguments.tail_strips != 1,
        "--max-miou-drop: search without it": arguments.max_miou_drop is not None,
        "--window-batch in INT8 or FP8": arguments.window_batch and arguments.precision in SCHEMES,
    }
    for reason in (reason for reason, given in refused.items() if given):
        parser.error(f"--mode slide: not with {reason}")


def _check_fused_tail(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse tails that the kernel does not compute."""
    refused = {
        "--output scores: it gives labels": arguments.output != "labels",
        "--mode slide: it takes whole images": arguments.mode == "slide",
        "--resize-from: it takes images of the model's size": arguments.resize_from,
        "--tail-strips: it keeps no masks or scores in memory": arguments.tail_strips != 1,
    }
    for reason in (reason for reason, given in refused.items() if arguments.fused_tail and given):
        parser.error(f"--fused-tail: not with {reason}")


def _check_quantisation(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse options that only INT8 and FP8 have, and those that exclude each other.

    Chooses the float type where none is given.
    """
    given = {
        "--ranges": arguments.ranges,
        "--calibration-images": arguments.calibration_images,
        "--max-miou-drop": arguments.max_miou_drop is not None,
        "--quantise-attention": arguments.quantise_attention,
        "--float-type": arguments.float_type,
        "--num-search-images": arguments.num_search_images,
        "--estimate-gpu": arguments.estimate_gpu,
    }
    lost = [name for name, value in given.items() if value]
    if lost and arguments.precision not in SCHEMES:
        parser.error(f"{lost[0]}: only with --int8 or --fp8")
    for name in ("--num-search-images", "--estimate-gpu"):
        if given[name] and arguments.max_miou_drop is None:
            parser.error(f"{name}: only with --max-miou-drop")
    folders = [path.resolve() for path in (arguments.images, arguments.calibration_images) if path]
    if len(folders) == 2 and folders[0] == folders[1]:
        parser.error("--calibration-images: expected others than --images, which verify")
    if arguments.quantise_attention and arguments.precision != "fp8":
        parser.error("--quantise-attention: only with --fp8; see docs/quantization.md")
    if arguments.quantise_attention and arguments.max_miou_drop is not None:
        parser.error("--quantise-attention: not with --max-miou-drop, which frees linears alone")
    if arguments.max_miou_drop is not None and arguments.random_weights:
        parser.error("--max-miou-drop: random weights have no mIoU to lose")
    targets = set(arguments.target or ["auto"])
    if arguments.float_type == "fp32" and not targets <= {"ort", "openvino"}:
        parser.error(
            "--float-type fp32: only with --target ort or openvino, since no compiler fuses "
            "attention in FP32"
        )
    if arguments.float_type == "bf16" and targets != {"openvino"}:
        parser.error(
            "--float-type bf16: only with --target openvino; ONNX Runtime computes no BF16 on a "
            "CPU, and engines take FP16"
        )
    if arguments.float_type == "bf16" and (
        arguments.max_miou_drop is not None or arguments.precision != "int8"
    ):
        parser.error("--float-type bf16: only with --int8, and not with --max-miou-drop")
    # CPUs multiply in INT8 only between FP32, and have no FP16 of their own.
    on_cpu = arguments.precision == "int8" and targets <= {"ort", "openvino"}
    arguments.float_type = arguments.float_type or ("fp32" if on_cpu else "fp16")


def _check_attention(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse a form of attention that the graph cannot have; choose one where none is given."""
    floats = arguments.float_type if arguments.precision in SCHEMES else arguments.precision
    # Graphs with these floats beside INT8 are for CPUs, which sum in FP32.
    has_form = floats == "fp16" or arguments.precision == "bf16"
    if arguments.attention and not has_form:
        option = "--fp32" if arguments.precision == "fp32" else f"--float-type {floats}"
        parser.error(f"--attention: not with {option}, whose attention is summed in FP32 anyway")
    if arguments.attention == "unfused" and arguments.quantise_attention:
        parser.error("--attention unfused: not with --quantise-attention, which needs fused ones")
    if has_form:
        arguments.attention = arguments.attention or ATTENTION_FORMS[0]
        arguments.allow_unfused |= arguments.attention == "unfused"


def _add_calibration_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--calibration-images", type=Path, metavar="DIR",
        help="none of them verifies (default: land-cover training tiles)")  # fmt: skip
    add("--num-calibration-images", type=_positive, default=256, metavar="N", help="default 256")
    add("--calibration-method", choices=get_args(Method), default=DEFAULT_METHOD,
        help="what ranges are taken from (default %(default)s)")  # fmt: skip
    add("--ranges", type=Path, metavar="FILE", help="ranges.json of the same graph, for no images")
    add("--quantise-attention", action="store_true", help="with --fp8: Q, K, V and softmax too")
    add("--float-type", choices=("fp16", "fp32", "bf16"),
        help="of all that is not quantised; fp32 and, with --int8, bf16 are for CPUs (default "
        "fp16; of INT8 for ort and openvino alone fp32)")  # fmt: skip
    add("--max-miou-drop", type=_parse_points, metavar="POINTS",
        help="search the fastest mixed precision that loses no more, of 100")  # fmt: skip
    add("--num-search-images", type=_positive, metavar="N",
        help="of --images, or land-cover validation tiles, to search on (default 64)",
        )  # fmt: skip
    add("--estimate-gpu", choices=list(GPUS), metavar="NAME",
        help=f"whose peaks rank engines in the search: {', '.join(GPUS)} (default this "
        f"machine's with TensorRT, else {DEFAULT_GPU})")  # fmt: skip


def _add_verification_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--images", type=Path, metavar="DIR", help="folder of images to verify on")
    add("--masks", type=Path, metavar="DIR",
        help="ground truth of --images, or of some of them: grey PNGs of class ids, of the same "
        "names, 255 ignored; mIoU and every class are gated on it")  # fmt: skip
    add("--reduce-zero-label", action="store_true",
        help="0 in the masks means ignored and the other ids are one too high")  # fmt: skip
    add("--num-images", type=_positive, metavar="N",
        help="images to verify on (default 64; 8 with --mode slide; 2 with random weights)",
        )  # fmt: skip
    add("--allow-foreign-images", action="store_true",
        help="verify, and calibrate, a model of other classes than land cover's on satellite "
        "tiles where no images are given")  # fmt: skip
    add("--device", default="cpu", help="where PyTorch runs (default cpu)")
    add("--seed", type=int, default=0, help="of random weights and image choice")


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", choices=list(VARIANTS), metavar="NAME",
                       help=f"one of: {', '.join(VARIANTS)} (default: the checkpoint's, "
                       f"or {SHIPPED_MODELS[0]})")  # fmt: skip
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights; see README.md")
    group.add_argument("--random-weights", action="store_true",
                       help="build without a checkpoint, or say that its weights are random: "
                       "scores are gated then, labels are not")  # fmt: skip
    group.add_argument("--size", type=parse_size, metavar="HxW", help="input size")


def _add_graph_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("graph")
    precision = group.add_mutually_exclusive_group()
    for name, what in (
        ("fp32", "the default"), ("fp16", "half"), ("bf16", "bfloat16"),
        ("int8", "encoder's linears INT8, the rest half"),
        ("fp8", "encoder's linears FP8, the rest half; needs SM89 or later"),
    ):  # fmt: skip
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name,
            default="fp32", help=f"precision: {what}",
        )  # fmt: skip
    group.add_argument("--batch", type=parse_batch, default=(1, 1, 1), metavar="N|MIN:OPT:MAX",
                       help="images a call, fixed or a range (default 1)")  # fmt: skip
    group.add_argument("--mode", choices=("whole", "slide"), default="whole",
                       help="slide: windows, model and stitching in one graph")  # fmt: skip
    group.add_argument("--image-size", type=parse_size, metavar="HxW",
                       help="of the images that --mode slide takes")  # fmt: skip
    group.add_argument("--resize-from", type=parse_size, metavar="HxW",
                       help="take images of this size: they are resized in the graph, linearly, "
                       "and their labels back, to the nearest")  # fmt: skip
    group.add_argument("--window-batch", type=_positive, metavar="N",
                       help="windows at once, for less memory (default: all of an image)",
                       )  # fmt: skip
    group.add_argument("--attention", choices=ATTENTION_FORMS, metavar="FORM",
                       help="of 16-bit attention: fp32-sums asks for sums in FP32 (default); "
                       "fp16-sums asks for nothing, and TensorRT-RTX sums in FP16; unfused is all "
                       "in FP32 and slower, and implies --allow-unfused")  # fmt: skip
    group.add_argument("--output", choices=("labels", "scores"), default="labels")
    group.add_argument("--tail-strips", type=_positive, default=1, metavar="N",
                       help="cut the last stage's memory: compute it in N strips")  # fmt: skip


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="trt, trt-rtx, ort, openvino or auto (default auto: all that this machine can build)",
    )
    group.add_argument(
        "--compute-capability",
        nargs="+",
        action="extend",
        metavar="SM",
        help="TensorRT-RTX: GPUs to compile for (default SM86 SM89 SM120)",
    )
    group.add_argument("--allow-unfused", action="store_true", help="accept unfused attentions")
    group.add_argument("--allow-unaudited", action="store_true",
                       help="accept an engine whose kernels the audit cannot trace, see "
                       "docs/audit.md")  # fmt: skip
    group.add_argument("--allow-known-wrong", action="store_true",
                       help="build what is reported to give wrong labels (engines/known_wrong.py)",
                       )  # fmt: skip
    group.add_argument("--workspace", type=_positive, metavar="MIB", help="builder workspace")
    group.add_argument("--optimization-level", type=int, choices=range(6), metavar="0-5")
    group.add_argument("--timing-cache", type=Path, metavar="FILE", help="TensorRT only")
    group.add_argument(
        "--fused-tail",
        action="store_true",
        help="TensorRT only, EXPERIMENTAL: the tail as one Triton kernel; no engine with it was "
        "ever built or run, see docs/fused-tail.md",
    )


def _parse_points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:  # NaN is neither
        raise argparse.ArgumentTypeError(f"expected points of 0 to 100, such as 0.3, got '{text}'")
    return points


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)
