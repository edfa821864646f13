"""Names that let a reader find encoder block 7 or ATM stage 2."""

from __future__ import annotations

import ast
import re
from collections import Counter

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"


class NodeNamesPass(ir.passes.InPlacePass):
    """Names nodes and their outputs after the module they come from.

    1. node of module `encoder.7.fc1`, MatMul -> `encoder/7/fc1/MatMul`, then `.../MatMul_1`.
    2. node without a module (made by the exporter) -> its first named producer's module.
    3. output value -> the node's name; graph inputs and outputs keep theirs.

    Metadata of the exporter (stack traces of this machine) is dropped.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model, renamed; unmodified where every node is named so already."""
        graph = model.graph
        if not any(node.metadata_props for node in graph):
            return ir.passes.PassResult(model, modified=False)
        counts: Counter[str] = Counter()
        modules: dict[ir.Node, str] = {}
        for node in graph:
            modules[node] = module = self._find_module(node, modules)
            stem = "/".join(part for part in (module, node.op_type) if part)
            node.name = f"{stem}_{counts[stem]}" if counts[stem] else stem
            counts[stem] += 1
            node.metadata_props.clear()
            for index, value in enumerate(node.outputs):
                value.metadata_props.clear()
                if not value.is_graph_output():
                    value.name = node.name if index == 0 else f"{node.name}/{index}"
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        graph.metadata_props.clear()
        return ir.passes.PassResult(model, modified=True)

    def _find_module(self, node: ir.Node, modules: dict[ir.Node, str]) -> str:
        scopes = node.metadata_props.get(_SCOPES)
        if scopes:
            *path, _ = ast.literal_eval(scopes)
            return re.sub(r"\.", "/", path[-1]) if path else ""
        producers = (value.producer() for value in node.inputs if value is not None)
        return next((modules[p] for p in producers if p is not None and p in modules), "")
