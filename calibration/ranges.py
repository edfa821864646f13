"""Clipping limits of a graph's tensors as a file, and the fingerprint of the graph they are of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir

from export.manifest_decode import decode
from segvit.atomic import write_bytes

RANGES_NAME = "ranges.json"
_SCHEMA = 1
_LARGEST_EXPONENT = 30  # of a power of two that a channel is scaled by


@dataclass(frozen=True)
class Ranges:
    """What calibration found.

    `limits` maps each tensor to the magnitude at which it is clipped; `graph_sha256` is the
    `hash_graph` of the float graph they were found for; `source` says in words on what images.
    `rewrites` names the exact rewrites of that graph before it was measured, as
    `calibration.rewriting` knows them, and `migration` holds what one of them cannot find again
    without images: the exponents of each norm's channels.

    Raises:
        ValueError: if a limit is not above 0 and finite, an exponent is none, or the number of
            images is negative.
    """

    graph_sha256: str
    method: str
    images: int
    limits: dict[str, float]
    warnings: tuple[str, ...] = ()
    source: str = ""
    rewrites: tuple[str, ...] = ()
    migration: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if not 0 < limit < math.inf:
                raise ValueError(f"limits['{name}']: expected above 0 and finite, got {limit}")
        for name, exponents in self.migration.items():
            wide = [exponent for exponent in exponents if abs(exponent) > _LARGEST_EXPONENT]
            if wide:
                raise ValueError(
                    f"migration['{name}']: expected up to {_LARGEST_EXPONENT}, got {wide[0]}"
                )
        if self.images < 0:
            raise ValueError(f"images: expected 0 or more, got {self.images}")

    def save(self, path: str | Path) -> None:
        """Write the ranges as JSON, atomically.

        Raises:
            OSError: naming `path`.
        """
        document = {"schema": _SCHEMA, **asdict(self)}
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(path, f"{text}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the ranges of a file that `save` wrote.

        Raises:
            ValueError: if it is damaged, or of a later version of this project.
            OSError: if it cannot be read.
        """
        try:
            # RecursionError: a file of nothing but opening brackets.
            document = json.loads(Path(path).read_bytes())
            schema = document.get("schema") if isinstance(document, dict) else None
            if type(schema) is int and schema > _SCHEMA:
                raise ValueError(f"expected schema {_SCHEMA}, got {schema} of a later version")
            return decode(cls, document)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"'{path}' holds no calibrated ranges: {error}; calibrate again, without --ranges"
            ) from error

    def check_graph(self, sha256: str) -> None:
        """Raise ValueError where the ranges are those of another graph than the one hashed."""
        if sha256 != self.graph_sha256:
            raise ValueError(
                f"the calibrated ranges are of another graph: expected {sha256[:12]}…, got "
                f"{self.graph_sha256[:12]}…; its weights, size, batch or precision differ, "
                "calibrate again, without --ranges"
            )


def hash_graph(model: ir.Model) -> str:
    """Return a sha256, in hexadecimal, of all that the graph computes and is named by.

    Nodes with their attributes, the names of tensors, inputs and outputs with types and shapes,
    operator sets, and the initializers' bytes count; metadata, descriptions and where the weights
    are stored do not.
    """
    digest = hashlib.sha256()
    _add(digest, "opsets", *(f"{name}={v}" for name, v in sorted(model.opset_imports.items())))
    for key, function in sorted(model.functions.items()):
        _add(digest, "function", *key, *map(_name, (*function.inputs, *function.outputs)))
        _add_nodes(digest, function)
    _add_graph(digest, model.graph)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, *parts: str | bytes) -> None:
    """Add parts so that no two different sequences of them give the same bytes."""
    digest.update(len(parts).to_bytes(8, "little"))
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)


def _add_graph(digest: hashlib._Hash, graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        _add(digest, "value", _name(value), str(value.dtype), str(value.shape))
    for name, value in sorted(graph.initializers.items()):
        if value.const_value is not None:
            _add_tensor(digest, name, value.const_value)
    _add_nodes(digest, graph)


def _add_nodes(digest: hashlib._Hash, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        _add(digest, "node", node.domain, node.op_type, node.overload, node.name or "")
        _add(digest, "inputs", *map(_name, node.inputs))
        _add(digest, "outputs", *map(_name, node.outputs))
        for name, attribute in sorted(node.attributes.items()):
            _add_attribute(digest, name, attribute)


def _add_attribute(digest: hashlib._Hash, name: str, attribute: ir.Attr) -> None:
    _add(digest, "attribute", name, attribute.type.name, attribute.ref_attr_name or "")
    kinds = ir.AttributeType
    value = attribute.value
    if attribute.is_ref():  # a function's own attribute: it has a name and no value
        return
    if attribute.type == kinds.TENSOR:
        _add_tensor(digest, name, value)
    elif attribute.type == kinds.GRAPH:
        _add_graph(digest, value)
    elif attribute.type == kinds.GRAPHS:
        for graph in value:
            _add_graph(digest, graph)
    elif attribute.type in (kinds.FLOAT, kinds.FLOATS):
        # A file holds them as float32, a graph in memory may hold Python's doubles.
        _add(digest, np.asarray(value, dtype="<f4").tobytes())
    elif attribute.type in (kinds.INTS, kinds.STRINGS):
        _add(digest, *(str(item) for item in value))
    else:
        _add(digest, str(value))


def _add_tensor(digest: hashlib._Hash, name: str, tensor: ir.TensorProtocol) -> None:
    shape = tuple(map(int, tensor.shape.numpy()))
    _add(digest, "tensor", name, tensor.dtype.name, str(shape), tensor.tobytes())


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""
