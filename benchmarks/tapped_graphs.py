"""A graph's intermediate values: as written on ONNX Runtime, or as a compiler computes them.

Nodes are found by name, and read by the first value that they give, if it is a float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from engines.openvino_runtime import compile_model
from engines.target import Target, cannot_run_reason
from export.passes import check_passes

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
Floats = NDArray[np.floating[Any]]


class TappedGraph(Protocol):
    """A graph that can be read inside."""

    @property
    def taps(self) -> Mapping[str, ir.Node]:
        """Its nodes that give floats, in order, by name."""

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Return what these nodes give for images `(B, H, W, 3)`, as far as it can be read."""

    def close(self) -> None:
        """Free what it holds."""


def open_tapped(path: Path, target: Target, copy: Path) -> TappedGraph:
    """Return a graph that can be read inside.

    Args:
        path: the ONNX file.
        target: `ort` reads every node as it is written, the others what their compiler leaves.
        copy: where `ort` may write a copy; it may be deleted afterwards.

    Raises:
        ValueError: if the target cannot run here, or not the graph.
    """
    if target == Target.ORT:
        return _WrittenGraph(path, copy)
    if target == Target.OPENVINO:
        return _OpenVinoGraph(path)
    return _Engine(path, target)


class _WrittenGraph:
    """A copy on ONNX Runtime, its optimizations off; each 16-bit value is read as it is rounded."""

    def __init__(self, path: Path, copy: Path) -> None:
        model = ir.load(path)
        outputs = model.graph.outputs
        self.taps = _list_taps(model.graph)
        values = [node.outputs[0] for node in self.taps.values()]
        outputs.extend(value for value in values if value not in outputs)
        places = [outputs.index(value) for value in values]
        for check_pass in check_passes()[1:]:  # the first exposes scores alone
            check_pass(model)
        # The passes replace an output by its rounded value, in its place.
        names = [str(outputs[place].name) for place in places]
        self._names = dict(zip(self.taps, names, strict=True))
        ir.save(model, copy, external_data=f"{copy.name}.data")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        providers = ["CPUExecutionProvider"]
        self._session: Any = onnxruntime.InferenceSession(copy, options, providers=providers)

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        outputs = self._session.run([self._names[name] for name in names], {"image": images})
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._session = None


class _OpenVinoGraph:
    """The file on OpenVINO, compiled anew for each set of values: it fuses none of those away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: tuple[str, ...] = ()
        self._compiled: Any = None
        self.taps = _list_taps(ir.load(path).graph)

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        values = {name: str(self.taps[name].outputs[0].name) for name in names}
        if self._compiled is None or self._names != tuple(names):
            self._names = tuple(names)
            self._compiled = compile_model(self._path, outputs=list(values.values()))
        request = self._compiled.create_infer_request()
        request.infer({"image": images})
        found = {port_name: port for port in request.model_outputs for port_name in port.names}
        return {
            name: np.array(request.get_tensor(found[value]).data)
            for name, value in values.items()
            if value in found
        }

    def close(self) -> None:
        self._compiled = None


class _Engine:
    """A TensorRT engine whose unfused tensors Polygraphy reads: it is compiled as without it."""

    def __init__(self, path: Path, target: Target) -> None:
        reason = cannot_run_reason(target)
        if reason is not None:
            raise ValueError(f"values of '{path}' on {target} cannot be read here: {reason}")
        self.taps = _list_taps(ir.load(path).graph)
        backend = import_backend(target)
        engine = backend.EngineFromNetwork(load_network(path, target))
        self._runner: Any = backend.TrtRunner(engine)
        self._runner.activate()

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> dict[str, Floats]:
        found = self._runner.infer({"image": images})
        values = {name: str(self.taps[name].outputs[0].name) for name in names}
        return {name: np.array(found[value]) for name, value in values.items() if value in found}

    def close(self) -> None:
        self._runner.deactivate()


def import_backend(target: Target) -> Any:
    """Return Polygraphy's back end of TensorRT or TensorRT-RTX; a process can have one of them.

    Raises:
        ValueError: if Polygraphy is not installed.
    """
    try:
        config: Any = import_module("polygraphy.config")
        config.USE_TENSORRT_RTX = target == Target.TRT_RTX
        return import_module("polygraphy.backend.trt")
    except ModuleNotFoundError as error:
        raise ValueError(
            "an engine's values are read by Polygraphy, which is not installed; install it with: "
            "pip install 'segvit-deploy[bench]'"
        ) from error


def load_network(path: Path, target: Target) -> Any:
    """Return Polygraphy's loader of a file's network: typed, and its unfused tensors readable."""
    return import_backend(target).NetworkFromOnnxPath(
        str(path), strongly_typed=True, mark_unfused_tensors_as_debug_tensors=True
    )


def _list_taps(nodes: Sequence[ir.Node] | ir.Graph) -> dict[str, ir.Node]:
    return {str(n.name): n for n in nodes if n.name and n.outputs[0].dtype in _FLOATS}
