"""How long each operator of a graph takes on ONNX Runtime and OpenVINO, by their own profilers."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.arrays import Images
from engines.devices import parse_device
from engines.graph import load_without_weights
from engines.openvino_runtime import compile_model
from engines.ort_runtime import open_session


@dataclass(frozen=True)
class Operator:
    """One operator as a runtime runs it; `nodes` are those of the ONNX graph behind it."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    ms: float


Profile = tuple[list[Operator], list[float]]  # and the seconds of each call
Profiler = Callable[[Path, Images, int, int], Profile]


def profile_ort(path: Path, images: Images, threads: int, calls: int) -> Profile:
    """Return ONNX Runtime's operators, each with its mean time a call.

    Args:
        path: the ONNX file.
        images: `(B, H, W, 3)` uint8.
        threads: of the CPU provider.
        calls: after one that is not counted.

    Raises:
        ValueError: if ONNX Runtime cannot load it.
    """
    nodes = _list_nodes(path)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, parse_device("cpu"), threads, Path(folder) / "profile")
        feed = {session.get_inputs()[0].name: images}
        session.run(None, feed)
        seconds = _time_calls(lambda: session.run(None, feed), calls)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = defaultdict[tuple[str, str], list[float]](list)
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            key = name.removesuffix("_kernel_time"), str(event["args"]["op_name"])
            runs[key].append(event["dur"] / 1e3)
    operators = [
        Operator(name, kind, _find_node(name, nodes), sum(times[-calls:]) / calls)
        for (name, kind), times in runs.items()
    ]
    return operators, seconds


def profile_openvino(path: Path, images: Images, threads: int, calls: int) -> Profile:
    """Return OpenVINO's operators, each with its mean time a call; see `profile_ort`."""
    compiled, nodes = compile_model(path, threads, profile=True), _list_nodes(path)
    request = compiled.create_infer_request()
    request.infer({0: images})
    first = {operator.name: operator.ms for operator in _read_operators(compiled, nodes)}
    seconds = _time_calls(lambda: request.infer({0: images}), calls)
    operators = []
    for operator in _read_operators(compiled, nodes):  # means of all calls, the first among them
        ms = (operator.ms * (calls + 1) - first.get(operator.name, 0.0)) / calls
        operators.append(replace(operator, ms=max(ms, 0.0)))
    return operators, seconds


PROFILERS: dict[str, Profiler] = {"ort": profile_ort, "openvino": profile_openvino}


def _time_calls(call: Callable[[], object], calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def _list_nodes(path: Path) -> list[str]:
    return [node.name for node in load_without_weights(path).graph.node]


def _find_node(name: str, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the graph's node that an operator was made of: fusions append to its name."""
    found = [node for node in nodes if name == node or name.startswith(f"{node}/")]
    return (max(found, key=len),) if found else ()


def _read_operators(compiled: Any, nodes: Sequence[str]) -> list[Operator]:
    """Return the operators of a compiled OpenVINO model that ran, with their mean times so far."""
    operators = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        spent = info["execTimeMcs"].astype(str)
        if spent.isdigit() and int(spent):
            merged = info["originalLayersNames"].astype(str).split(",")
            found = dict.fromkeys(node for name in merged for node in _find_node(name, nodes))
            kind = f"{info['layerType'].astype(str)} {info['primitiveType'].astype(str)}"
            operators.append(Operator(op.get_friendly_name(), kind, tuple(found), int(spent) / 1e3))
    return operators
