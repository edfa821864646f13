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
from segvit.layer_macs import NORM_MACS, count_class_logits

RESIZE_MACS = 4  # an output value, as in `segvit.macs`
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
    from segvit.macs import count_macs  # with torch, which a machine that only measures lacks

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
        norms=2.0 * NORM_MACS * elements["LayerNormalization"],
        resizing=2.0 * RESIZE_MACS * elements["Resize"],
        folded={name: 2.0 * macs for name, macs in _count_folded(config).items() if macs},
        added={name: 2.0 * macs for name, macs in _count_added(config).items() if macs},
        info=2.0 * sum(count_macs(config).values()),
    )


def _count_folded(config: SegViTConfig) -> dict[str, int]:
    """Return the multiply-accumulates that the papers count and the graph has not."""
    from segvit.model import HEADS

    tokens, classes, dim = config.grid_size**2, config.num_classes, config.decoder_dim
    head = HEADS[config.head]
    constant = head.list_constant_queries(config)
    earlier = head.count_predictions(config) - 1
    pixels = config.image_size**2
    return {
        "first self-attention, on constant queries": sum(
            4 * q * dim**2 + 2 * q**2 * dim + 5 * q * dim for q in constant
        ),
        "first cross-attention's query, constant": sum(q * dim**2 for q in constant),
        "class logits of earlier predictions": earlier * count_class_logits(classes, dim),
        "resizing of each prediction's masks to their own grid": (
            RESIZE_MACS * classes * (earlier + 1) * tokens
        ),
        "resizing of scores to their own size": RESIZE_MACS * classes * pixels,
    }


def _count_added(config: SegViTConfig) -> dict[str, int]:
    """Return the multiply-accumulates of the graph that the papers do not count."""
    from segvit.model import HEADS

    tokens, classes, dim = config.grid_size**2, config.num_classes, config.decoder_dim
    head = HEADS[config.head]
    padding = -(classes + 1) % _CLASS_ALIGNMENT
    pixels = config.image_size**2
    shrunk = ((config.grid_size + 1) // 2) ** 2 if config.shrink_block is not None else 0
    rows = config.num_prefix * config.embed_dim
    # The keys of a memory without norm keep their bias.
    key_bias = 0 if head.normalizes_memory(config) else classes * dim
    return {
        "mask logits beside the fused attention": (
            head.count_summed_masks(config) * classes * dim * (dim + tokens) + key_bias
        ),
        "class columns padded for alignment": (
            padding * classes * dim + (1 + padding) * classes * pixels
        ),
        "second norm of the downsampling block": NORM_MACS * shrunk * config.embed_dim,
        "prefix tokens in the patch embedding and the projections": (
            rows * 3 * config.patch_size**2 + rows * dim * len(config.tap_blocks)
        ),
    }
