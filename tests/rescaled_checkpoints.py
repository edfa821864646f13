"""Checkpoints that are the same function in FP32 and not in 16 bits.

Powers of two move from one weight into another, so that every sum in float32 keeps its digits and
the labels stay, while values between reach a 16-bit type's limits, or weights its small end. A
build has to refuse them and name the layer, or to meet its gate honestly.

    python -m tests.rescaled_checkpoints

builds the shipped model with each of them in each precision and prints what came of it.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn

from export.build import main as build
from segvit.atm import AtmAttention, DecoderLayer, TokenProjection
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.model import SegViT
from segvit.shipped import shipped_checkpoint
from segvit.vit import Attention, Block

Module = TypeVar("Module", bound=nn.Module)
PRECISIONS = ("fp16", "bf16", "int8", "fp8")


def _scale_linear(linear: nn.Linear, exponent: int) -> None:
    linear.weight.mul_(2.0**exponent)
    linear.bias.mul_(2.0**exponent)


def _scale_decoder_hidden(model: SegViT, exponent: int) -> None:
    """linear1 up, linear2 down: ReLU lets factors pass."""
    for layer in _find(model, DecoderLayer):
        _scale_linear(layer.linear1, exponent)
        layer.linear2.weight.mul_(2.0**-exponent)


def _scale_values(model: SegViT, exponent: int) -> None:
    """The value projection up, the output projection down: softmax rows are only weights."""
    for attention in _find(model, Attention):
        for packed in (attention.qkv.weight, attention.qkv.bias):
            packed.chunk(3)[2].mul_(2.0**exponent)
        attention.proj.weight.mul_(2.0**-exponent)
    for attention in _find(model, AtmAttention):
        _scale_linear(attention.v, exponent)
        attention.proj.weight.mul_(2.0**-exponent)


def _scale_residual(model: SegViT, exponent: int) -> None:
    """All that is written into the stream up: a LayerNorm reads it, and the head's projections.

    The norms' epsilon is the one thing that is not scaled; against a variance of 2**26 times the
    old one it vanishes.
    """
    backbone, factor = model.backbone, 2.0**exponent
    backbone.patch_embed.weight.mul_(factor)
    assert backbone.patch_embed.bias is not None
    backbone.patch_embed.bias.mul_(factor)
    for name in ("cls_token", "registers", "pos_embed"):
        if isinstance(embedding := getattr(backbone, name, None), Tensor):
            embedding.mul_(factor)
    for block in _find(model, Block):
        _scale_linear(block.attn.proj, exponent)
        _scale_linear(block.mlp.fc2, exponent)
    for projection in _find(model, TokenProjection):
        projection.linear.weight.mul_(2.0**-exponent)


def _scale_head_projection(model: SegViT, exponent: int) -> None:
    """The linear in front of a norm up: the norm takes it out again."""
    for projection in _find(model, TokenProjection):
        _scale_linear(projection.linear, exponent)


def _scale_queries(model: SegViT, exponent: int) -> None:
    """Query up, key down: only their products are read."""
    for attention in _find(model, Attention):
        for packed in (attention.qkv.weight, attention.qkv.bias):
            query, key, _ = packed.chunk(3)
            query.mul_(2.0**exponent)
            key.mul_(2.0**-exponent)
    for attention in _find(model, AtmAttention):
        _scale_linear(attention.q, exponent)
        _scale_linear(attention.k, -exponent)


_SCALINGS: dict[str, Callable[[SegViT, int], None]] = {
    "decoder hidden": _scale_decoder_hidden,
    "V": _scale_values,
    "residual": _scale_residual,
    "head projection": _scale_head_projection,
    "Q": _scale_queries,  # and K the other way
}
RESCALINGS = (("decoder hidden", 15), ("V", 11), ("V", 14), ("residual", 13),
              ("head projection", 12), ("Q", 12))  # fmt: skip


def rescale_model(model: SegViT, name: str, exponent: int) -> SegViT:
    """Return a copy that computes the same in FP32, one kind of values times `2**exponent`."""
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        _SCALINGS[name](rescaled, exponent)
    return rescaled


def _find(model: nn.Module, kind: type[Module]) -> Iterator[Module]:
    return (module for module in model.modules() if isinstance(module, kind))


def main(argv: list[str] | None = None) -> int:
    """Print the table of rescalings and precisions."""
    parser = argparse.ArgumentParser(prog="python -m tests.rescaled_checkpoints")
    parser.add_argument("--model", default="vit_t_landcover", help="default %(default)s")
    parser.add_argument("--num-images", default="16", help="to verify on (default %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=PRECISIONS)
    arguments, others = parser.parse_known_args(argv)
    model = load_checkpoint(shipped_checkpoint(arguments.model))
    with TemporaryDirectory() as folder:
        for name, exponent in RESCALINGS:
            path = Path(folder) / "rescaled.safetensors"
            save_checkpoint(rescale_model(model, name, exponent), path)
            for precision in arguments.precision:
                command = ["--checkpoint", path, "--model", arguments.model, f"--{precision}",
                           "--num-images", arguments.num_images, "--target", "trt-rtx",
                           "--compute-capability", "SM89", "--out", Path(folder) / "artifact",
                           *others]  # fmt: skip
                print(
                    f"{name} x 2^{exponent}, {precision}: {try_build([*map(str, command)])}",
                    flush=True,
                )
    return 0


def try_build(command: list[str]) -> str:
    """Return the parity line of a build, or the error that refused it."""
    printed = StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(StringIO()):
            build(command)
    except (RuntimeError, ValueError) as error:
        return f"REFUSED: {error}"
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("parity")]
    return f"passes: {' | '.join(lines)}"


if __name__ == "__main__":
    sys.exit(main())
