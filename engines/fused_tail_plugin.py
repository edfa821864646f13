"""The fused tail inside a TensorRT engine, as an ahead-of-time Python plugin. Experimental.

TensorRT (not TensorRT-RTX, which has no plugins) takes the kernel's PTX into the engine, which, by
NVIDIA's word alone, then needs neither Python nor Triton. What is used of `tensorrt.plugin` is
checked against the bindings of TensorRT 10.16 and 11.4; no engine was built or run with it.

Shapes: `B` batch, `Q` queries, `K` classes, `K+` padded classes, `h, w` mask grid, `H, W` pixels.
"""

# No postponed annotations: TensorRT reads types from the signatures below, and has none itself.
# mypy: disable-error-code="untyped-decorator"

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import TensorProto

from engines.fused_tail import (
    CompiledTail,
    Datatype,
    LabelType,
    TailShape,
    compile_tail,
    count_blocks,
)
from engines.graph import load_without_weights
from engines.kernels import Kernel

PLUGIN = "segvit::fused_tail"
# The plugin's layer, named as an ONNX node of the tail would be: the audit looks for it.
LAYER = "tail/fused"
_TAIL = "tail/"
_DATATYPES: dict[str, Datatype] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
_ONNX_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# A plugin gives int32, which the network casts: uint8 may only leave a Cast at an output.
_LABEL_TYPE: LabelType = "i32"
_TENSORS = 3


@dataclass(frozen=True)
class TailInputs:
    """Where a graph's tail begins: names of class probabilities and mask logits, and its shape."""

    classes: str
    masks: str
    shape: TailShape


def find_tail(onnx_path: str | Path) -> TailInputs:
    """Return where the tail of a deploy graph begins.

    Raises:
        ValueError: if the kernel does not compute what the graph's tail does.
    """
    model = load_without_weights(onnx_path)
    graph = model.graph
    tail = [node for node in graph.node if node.name.startswith(_TAIL)]
    made = {name for node in tail for name in node.output}
    constant = {tensor.name for tensor in graph.initializer}
    outside = dict.fromkeys(
        name for node in tail for name in node.input if name and name not in made | constant
    )
    typed = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    dims = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in typed.items()}
    output, operators = graph.output[0].name, [node.op_type for node in tail]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # A second Resize, of scores, is another function; so are stitched windows and resized labels.
    if (
        len(outside) != 2
        or "classes" not in metadata
        or output not in made
        or "ArgMax" not in operators
        or operators.count("Resize") != operators.count("Sigmoid")
        or any(dims[name][0] != dims[output][0] for name in outside)
    ):
        raise ValueError(
            f"'{onnx_path}': --fused-tail replaces the tail of a graph that gives labels of whole "
            "images at the training crop, and this is none; leave --fused-tail out"
        )
    _check_types(onnx_path, {name: typed[name].elem_type for name in outside})
    grids = [node for node in tail if node.op_type == "Reshape" and node.input[0] in outside]
    masks, grid = grids[0].input[0], dims[grids[0].output[0]]
    (classes,) = (name for name in outside if name != masks)
    shape = TailShape(
        queries=dims[classes][1],
        classes=len(json.loads(metadata["classes"])),
        padded_classes=dims[classes][2],
        grid=(grid[2], grid[3]),
        size=(dims[output][1], dims[output][2]),
    )
    return TailInputs(classes, masks, shape)


def _check_types(onnx_path: str | Path, types: dict[str, int]) -> None:
    """Accept inputs of one type that the kernel reads."""
    if len(set(types.values())) > 1 or not set(types.values()).issubset(_ONNX_TYPES):
        found = (f"'{n}' in {TensorProto.DataType.Name(kind)}" for n, kind in types.items())
        raise ValueError(
            f"'{onnx_path}': --fused-tail expects class probabilities and mask logits both in "
            f"FP32, FP16 or BF16, got {' and '.join(found)}; leave --fused-tail out"
        )


def replace_tail(network: Any, tail: TailInputs, compute_capability: str) -> None:
    """Let the plugin give the network's labels; the builder drops the layers nothing reads.

    Args:
        network: of TensorRT, parsed from the graph that `tail` was found in.
        tail: see `find_tail`.
        compute_capability: of the GPU that the engine is for, such as `SM89`.

    Raises:
        ImportError: if TensorRT has no ahead-of-time plugins, or Triton is missing.
        ValueError: if the network is another graph's, or the capability is none from SM80.
        RuntimeError: if Triton gives no kernel that TensorRT could launch.
    """
    trt = importlib.import_module("tensorrt")
    make = register_plugin(trt, tail.shape, compute_capability)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made = {
        tensor.name: (layer, tensor)
        for layer in layers
        for tensor in (layer.get_output(index) for index in range(layer.num_outputs))
    }
    if missing := {tail.classes, tail.masks} - made.keys():
        raise ValueError(
            f"--fused-tail: the network has no tensor {', '.join(sorted(missing))}; it was parsed "
            "from another graph"
        )
    classes, masks = (made[name][1] for name in (tail.classes, tail.masks))
    # What fails here is told; what fails when TensorRT calls back is not.
    _compile(tail.shape, _DATATYPES[classes.dtype.name], compute_capability)
    plugin = network.add_plugin(make(classes, masks), aot=True)
    plugin.name, plugin.metadata = LAYER, f"[ONNX Layer: {LAYER}]"
    # The Casts to the output's type stay: a uint8 tensor that is no output, as its own would be,
    # is refused even where nothing reads it, and int32 becomes uint8 by way of FP16 alone.
    last = made[network.get_output(0).name][0]
    before = made[last.get_input(0).name][0]
    first = before if before.type == last.type else last
    first.set_input(0, plugin.get_output(0))


def is_fused_tail(kernel: Kernel) -> bool:
    """Return whether a kernel of an engine is the plugin."""
    return LAYER in kernel.nodes or LAYER in kernel.name


def register_plugin(
    trt: ModuleType, shape: TailShape, compute_capability: str
) -> Callable[..., Any]:
    """Return what makes the plugin of two tensors: `classes (B, Q, K+)` and `masks (B, Q, h w)`.

    A plugin is known to TensorRT by its name, so every shape gets a name of its own.

    Raises:
        ImportError: if TensorRT has no ahead-of-time plugins.
    """
    if not hasattr(trt, "QuickPluginCreationRequest"):
        raise ImportError(
            f"TensorRT {trt.__version__} has no ahead-of-time plugins; upgrade it or leave "
            "--fused-tail out"
        )
    trtp: Any = importlib.import_module(f"{trt.__name__}.plugin")
    sizes = (shape.queries, shape.classes, shape.padded_classes, *shape.grid, *shape.size)
    plugin = "_".join([PLUGIN, *map(str, sizes), compute_capability.lower()])
    namespace, name = plugin.split("::")
    if not hasattr(getattr(trtp.op, namespace, None), name):
        _define(trt, trtp, plugin, shape, compute_capability)
    made: Callable[..., Any] = getattr(getattr(trtp.op, namespace), name)
    return made


def _define(trt: Any, trtp: Any, plugin: str, shape: TailShape, compute_capability: str) -> None:
    # Lazily: TensorRT's registry then hears of the plugin when a network takes it.
    @trtp.register(plugin, lazy_register=True)
    def describe(classes: trtp.TensorDesc, masks: trtp.TensorDesc) -> trtp.TensorDesc:
        return trtp.from_shape_expr((classes.shape_expr[0], *shape.size), trt.int32)

    @trtp.aot_impl(plugin)
    def compile_ptx(
        classes: trtp.TensorDesc,
        masks: trtp.TensorDesc,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = _compile(shape, _DATATYPES[classes.dtype.name], compute_capability)
        launch = trtp.KernelLaunchParams(
            grid_x=count_blocks(shape, kernel.blocks),
            grid_y=classes.shape_expr[0],
            block_x=32 * kernel.blocks.warps,
            shared_mem=kernel.shared_bytes,
        )
        return kernel.name, kernel.ptx, launch, trtp.SymIntExprs(0)


@cache
def _compile(shape: TailShape, datatype: Datatype, compute_capability: str) -> CompiledTail:
    """Return the kernel with PTX as TensorRT launches it."""
    kernel = compile_tail(shape, datatype, compute_capability, label_type=_LABEL_TYPE)
    return replace(kernel, ptx=drop_scratch_parameters(kernel.ptx))


def drop_scratch_parameters(ptx: str) -> str:
    """Return PTX whose kernel takes the three tensors alone, which is all TensorRT passes.

    Raises:
        RuntimeError: if the kernel reads one of the others.
    """
    entry = re.search(r"(\.entry\s+\w+\()([^)]*)(\))", ptx)
    declared = entry[2].split(",") if entry else []
    dropped = [part.split()[-1] for part in declared[_TENSORS:]]
    body = ptx[entry.end() :] if entry else ""
    read = [name for name in dropped if re.search(rf"\b{name}\b", body)]
    if entry is None or len(declared) < _TENSORS or read:
        raise RuntimeError(
            f"fused tail: expected a kernel of {_TENSORS} tensors and pointers it does not read, "
            f"got {len(declared)} parameters, read: {', '.join(read) or 'none of the others'}; "
            "this version of Triton compiles otherwise, use 3.9"
        )
    kept = ",".join(declared[:_TENSORS])
    return f"{ptx[: entry.start(2)]}{kept}\n{ptx[entry.end(2) :]}"
