"""The part of `export.build` that makes a graph of a model, the way its options ask for it."""

from __future__ import annotations

import argparse

import onnx_ir as ir

from export.deploy import DeployModel
from export.slide_model import SlideModel
from export.trace import trace_model
from segvit.model import SegViT, Size


def trace_graph(arguments: argparse.Namespace, model: SegViT, size: Size) -> ir.Model:
    """Return the folded model's graph, as PyTorch's exporter leaves it."""
    deploy = (
        SlideModel(model, size, arguments.window_batch, arguments.resize_from)
        if arguments.mode == "slide"
        else DeployModel(
            model, size, arguments.output, arguments.tail_strips, arguments.resize_from
        )
    )
    smallest, _, largest = arguments.batch
    batch = largest if smallest == largest else None
    # The module's weights, 1.4 GB in ViT-L, go once the passes have replaced them.
    return trace_model(deploy, arguments.resize_from or size, batch)
