"""The part of `export.build` that says where a graph that fails its gates went wrong."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.build_graph import trace_graph
from export.layer_divergence import WrittenGraph, compare_layers, describe_worst
from export.passes import deploy_passes
from segvit.memory import release_memory
from segvit.model import SegViT, Size


def locate_divergence(
    arguments: argparse.Namespace,
    model: SegViT,
    size: Size,
    images: NDArray[np.uint8],
    path: Path,
) -> str:
    """Return a clause that names the layer where a graph leaves its float32 form.

    The float32 graph is traced again, since no build keeps it.

    Args:
        images: a batch of them, uint8 `(B, H, W, 3)`.
        path: the ONNX file that failed.
    """
    graph = trace_graph(arguments, model, size)
    for graph_pass in deploy_passes("fp32"):
        graph_pass(graph)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        reference = Path(folder) / "float32.onnx"
        ir.save(graph, reference, external_data="float32.data")
        del graph
        release_memory()
        expected = WrittenGraph(reference)
        stack.callback(expected.close)
        found = WrittenGraph(path, half_sums=arguments.attention == "fp16-sums")
        stack.callback(found.close)
        is_quantized = arguments.precision in ("int8", "fp8")
        progress = not arguments.json
        return describe_worst(compare_layers(expected, found, [images], is_quantized, progress))
