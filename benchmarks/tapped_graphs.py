"""A graph's intermediate values: as written on ONNX Runtime, or as a compiler computes them.

Nodes are found by name, and read by the first value that they give, if it is a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from engines.openvino_runtime import compile_model
from engines.target import Target, cannot_run_reason
from export.layer_divergence import Floats, TappedGraph, WrittenGraph, list_taps


def open_tapped(path: Path, target: Target) -> TappedGraph:
    """Return a graph that can be read inside.

    Args:
        path: the ONNX file.
        target: `ort` reads every node as it is written, the others what their compiler leaves.

    Raises:
        ValueError: if the target cannot run here, or not the graph.
    """
    if target == Target.ORT:
        return WrittenGraph(path)
    if target == Target.OPENVINO:
        return _OpenVinoGraph(path)
    return _Engine(path, target)


class _OpenVinoGraph:
    """The file on OpenVINO, compiled anew for each set of values: it fuses none of those away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: tuple[str, ...] = ()
        self._compiled: Any = None
        self.taps = list_taps(ir.load(path).graph)

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
        self.taps = list_taps(ir.load(path).graph)
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
