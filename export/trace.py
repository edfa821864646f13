"""Deployable module to ONNX graph, through torch's dynamo exporter."""

from __future__ import annotations

import logging
import warnings

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    add_0_rule,
    collapse_slice_rule,
    materialize_reshape_shape_rule,
    squeeze_reshape_1d_rule,
)
from torch import nn

from segvit.model import Size

# 20 brings LayerNormalization, Gelu and FP16 Q/DQ scales; TensorRT 10.3 reads it.
OPSET = 20
# The exporter would match some forty rules, which takes up to half of its time; these are the ones
# that find something in our graphs.
_RULES = (
    add_0_rule,
    collapse_slice_rule,
    materialize_reshape_shape_rule,
    squeeze_reshape_1d_rule,
)


def trace_model(model: nn.Module, size: Size, batch: int | None) -> ir.Model:
    """Return the ONNX graph of a deployable model.

    Args:
        model: uint8 images in; its attribute `output` names what comes out.
        size: (height, width) of the input.
        batch: images a call, or None for a dynamic batch dimension named `batch`.

    Raises:
        RuntimeError: if a dynamic batch came out static.
    """
    # With an example batch of one, the exporter silently makes a dynamic dimension static.
    image = torch.zeros(batch or 2, *size, 3, dtype=torch.uint8)
    dynamic = None if batch else {"image": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[str(model.output)],
            dynamic_shapes=dynamic,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    _simplify(program.model)
    traced = _take_over(program.model)
    shape = traced.graph.inputs[0].shape
    dimension = shape[0] if shape else None
    if batch is None and isinstance(dimension, int):
        raise RuntimeError(f"the batch dimension was asked to be dynamic and came out {dimension}")
    return traced


def _simplify(model: ir.Model) -> None:
    """Fold what is constant and drop what is not used, in place, as the exporter's own steps do."""
    common.InlinePass()(model)
    for _ in range(2):  # a fold makes shapes known that allow others
        fold_constants_ir(model, onnx_shape_inference=True)
        rewrite(model, _RULES)
        common.RemoveUnusedNodesPass()(model)
    for tidy in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        tidy(model)


def _take_over(model: ir.Model) -> ir.Model:
    """Return a copy of the exporter's graph with its weights, which the graph itself loses.

    onnxscript's rewrite rules outlive the export and hold on to the last graph they matched: 1.4 GB
    of a ViT-L's float32 weights until the process ends.
    """
    copy = model.clone()
    for value in model.graph.initializers.values():
        value.const_value = None
    return copy
