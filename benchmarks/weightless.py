"""A named variant's deploy graph without weights: ViT-L in half a gigabyte and half a minute."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch

from export.deploy import DeployModel
from export.passes import deploy_passes
from export.trace import trace_model
from segvit.config import SegViTConfig
from segvit.model import build_model

# As in `engines.graph`: below, a tensor may hold a shape; above, it is a weight.
_WEIGHT_ELEMENTS = 4096


def write_weightless_graph(config: SegViTConfig, path: Path) -> None:
    """Write the deploy graph of a model at its training crop, its weights declared as inputs.

    Every size is the one that `export.build` gives; no weight is ever drawn or folded.
    """
    size = (config.image_size, config.image_size)
    with torch.device("meta"):
        deploy = DeployModel(build_model(config).eval(), size)
    deploy = deploy.to_empty(device="cpu")
    # Equal small tensors would be merged, and products that read them with them.
    for tensor in (*deploy.parameters(), *deploy.buffers()):
        if tensor.numel() <= _WEIGHT_ELEMENTS and tensor.is_floating_point():
            torch.nn.init.uniform_(tensor)
    graph = trace_model(deploy, size, 1)
    for graph_pass in deploy_passes("fp32"):
        graph_pass(graph)
    for value in list(graph.graph.initializers.values()):
        if value.const_value is not None and value.const_value.size > _WEIGHT_ELEMENTS:
            value.const_value = None
            assert value.name is not None
            del graph.graph.initializers[value.name]
            graph.graph.inputs.append(value)
    ir.save(graph, path)
