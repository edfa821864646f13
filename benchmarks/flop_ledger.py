"""A deployed graph's operations against those of `segvit.info`, every difference on its own line.

`segvit.info` counts what the papers count: the model as it is trained. The deploy graph folds
constants away, drops what nothing reads and computes mask logits beside the fused attention. The
graph's operations, and those lines computed from the config alone, must add up to the papers'.
All figures are operations on one image, a multiply-accumulate being two.

Legend: `Q` queries, `N` tokens, `K` classes, `d` decoder width, `C` backbone width, `P` prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from engines.graph import load_without_weights
from engines.roofline import count_flops
from segvit.config import SegViTConfig
from segvit.macs import count_macs

# What the papers count, in multiply-accumulates: see `segvit.macs`.
_NORM_MACS, _RESIZE_MACS = 5, 4
_CLASS_ALIGNMENT = 8  # columns of the class mix, as `export.folded_head` pads them


@dataclass(frozen=True)
class FlopLedger:
    """Operations of the graph by kind, what it lacks and what it adds, and the papers' total."""

    products: float
    norms: float
    resizing: float
    folded: Mapping[str, float]
    added: Mapping[str, float]
    info: float

    @property
    def accounted(self) -> float:
        """The graph's operations, with what was folded and without what was added."""
        graph = self.products + self.norms + self.resizing
        return graph + sum(self.folded.values()) - sum(self.added.values())

    @property
    def deviation(self) -> float:
        """How far the account is from the papers' total, as a share of it."""
        return self.accounted / self.info - 1


def make_ledger(onnx_path: str | Path, config: SegViTConfig) -> FlopLedger:
    """Return the account of a graph that takes whole images at the training crop.

    Raises:
        ValueError: if the file is no such graph, or its sizes are open.
    """
    graph = load_without_weights(onnx_path).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    image = sizes.get("image", ())
    if len(image) != 4 or image[1:3] != (config.image_size, config.image_size) or not image[0]:
        raise ValueError(
            f"'{onnx_path}' takes images of {image}, and the papers count at "
            f"{config.image_size}x{config.image_size} with a fixed batch; export it without --size "
            "and with a fixed --batch"
        )
    elements = {
        kind: sum(prod(sizes[n.output[0]]) for n in graph.node if n.op_type == kind) / image[0]
        for kind in ("LayerNormalization", "Resize")
    }
    return FlopLedger(
        products=sum(count_flops(onnx_path).values()) / image[0],
        norms=2.0 * _NORM_MACS * elements["LayerNormalization"],
        resizing=2.0 * _RESIZE_MACS * elements["Resize"],
        folded={name: 2.0 * macs for name, macs in _count_folded(config).items() if macs},
        added={name: 2.0 * macs for name, macs in _count_added(config).items() if macs},
        info=2.0 * sum(count_macs(config).values()),
    )


def _count_folded(config: SegViTConfig) -> dict[str, int]:
    """Return the multiply-accumulates that the papers count and the graph has not."""
    tokens, classes, dim = config.grid_size**2, config.num_classes, config.decoder_dim
    # Queries that do not depend on the image: the class queries, and in the Shrunk head those of
    # the query-based upsampling, one a token.
    constant = [classes, tokens] if config.head == "shrunk" else [classes]
    earlier = _count_predictions(config) - 1
    pixels = config.image_size**2
    return {
        "first self-attention, on constant queries": sum(
            4 * q * dim**2 + 2 * q**2 * dim + 5 * q * dim for q in constant
        ),
        "first cross-attention's query, constant": sum(q * dim**2 for q in constant),
        "class logits of earlier predictions": earlier * classes * dim * (classes + 1),
        "resizing of each prediction's masks to their own grid": (
            _RESIZE_MACS * classes * (earlier + 1) * tokens
        ),
        "resizing of scores to their own size": _RESIZE_MACS * classes * pixels,
    }


def _count_added(config: SegViTConfig) -> dict[str, int]:
    """Return the multiply-accumulates of the graph that the papers do not count."""
    tokens, classes, dim = config.grid_size**2, config.num_classes, config.decoder_dim
    stages = len(config.tap_blocks) if config.head == "cascade" else 1
    padding = -(classes + 1) % _CLASS_ALIGNMENT
    pixels = config.image_size**2
    shrunk = ((config.grid_size + 1) // 2) ** 2 if config.shrink_block is not None else 0
    rows = config.num_prefix * config.embed_dim
    # A sum of several projections is a memory without norm, whose keys keep their bias.
    summed = config.head == "single" and len(config.tap_blocks) > 1
    return {
        "mask logits beside the fused attention": (
            stages * classes * dim * (dim + tokens) + (classes * dim if summed else 0)
        ),
        "class columns padded for alignment": (
            padding * classes * dim + (1 + padding) * classes * pixels
        ),
        "second norm of the downsampling block": _NORM_MACS * shrunk * config.embed_dim,
        "prefix tokens in the patch embedding and the projections": (
            rows * 3 * config.patch_size**2 + rows * dim * len(config.tap_blocks)
        ),
    }


def _count_predictions(config: SegViTConfig) -> int:
    return len(config.tap_blocks) if config.head == "cascade" else config.decoder_layers
