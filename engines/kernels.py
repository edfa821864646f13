"""The kernels of a built engine, read from the builder's layer dump or from the inspector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

# Bits, since FP4 and INT4 share a byte; names as the dump ("Half") and the inspector ("FP16") say.
DATATYPE_BITS = {
    "Bool": 8, "BOOL": 8, "Int4": 4, "FP4": 4, "Int8": 8, "INT8": 8, "UInt8": 8, "UINT8": 8,
    "FP8": 8, "E8M0": 8, "Half": 16, "FP16": 16, "BFloat16": 16, "BF16": 16, "Float": 32,
    "FP32": 32, "Int32": 32, "INT32": 32, "Int64": 64, "INT64": 64, "Double": 64,
}  # fmt: skip
# One spelling a datatype in all that we write: the dump's.
_SPELLINGS = {
    "FP16": "Half", "FP32": "Float", "BF16": "BFloat16", "INT8": "Int8", "UINT8": "UInt8",
    "INT32": "Int32", "INT64": "Int64", "BOOL": "Bool",
}  # fmt: skip
# The datatypes that a matrix product multiplies; indices and pixels are others.
_MULTIPLIED = frozenset({"Int4", "FP4", "Int8", "FP8", "Half", "BFloat16", "Float", "Double"})
# Stream events and shape arithmetic on the host: they launch nothing and move no tensor.
_EVENTS = frozenset({"signal", "wait", "shape_call"})
_HOST_TYPES = frozenset({"reshape", "cast", "Shape", "ShapeHostToDevice"})
ACTIVATION_BYTES = "ActivationBytes"
_DATATYPE = re.compile("|".join(rf"\b{name}\b" for name in sorted(DATATYPE_BITS, key=len)[::-1]))
_DUMP_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: (?P<tactic>.*?), StreamId: (?P<stream>-?\d+),(?: EventId: \d+,)? "
    r"?Metadata: ?(?P<metadata>.*)"
)
_DUMP_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d, ]*)\], "
    r"Strides: \[(?P<strides>[-\d, ]*)\].*?"
    r"Datatype: (?P<datatype>\w+), Format: (?P<format>.*?) ?\}(?=, \{ Name: |$)"
)
_DUMP_BINDING = re.compile(r"^ ?Name: (?P<name>.*?), IOMode: ", re.MULTILINE)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|$)")
_ATTENTION_NAME = re.compile(r"_+(gemm_)?f?mha|_+\w*_mha_")
_PRODUCT_NAME = re.compile(r"__myl_\w*?Fc[A-Z_0-9]|_gemm_|__myl_\w*?Conv")
_PRODUCT_TYPES = frozenset({"gemm", "conv", "correlation", "matrix_multiply"})


@dataclass(frozen=True)
class KernelTensor:
    """One operand of a kernel as that kernel sees it: a view has its own dimensions."""

    name: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    datatype: str
    layout: str = ""

    @property
    def byte_count(self) -> int | None:
        """Bytes behind the view, repeated (stride 0) dimensions once; None if a size is open."""
        strides = self.strides if len(self.strides) == len(self.dims) else (1,) * len(self.dims)
        dims = [size for size, stride in zip(self.dims, strides, strict=True) if stride != 0]
        if any(size < 0 for size in dims):
            return None
        return prod(dims) * DATATYPE_BITS.get(self.datatype, 32) // 8

    @property
    def is_scalar(self) -> bool:
        """True for a single number: a scale, or a size computed on the host."""
        return prod(self.dims) == 1

    @property
    def is_matrix(self) -> bool:
        """True for numbers that a GEMM may multiply: no scalar, bias, scale or index."""
        sides = sum(size != 1 for size in self.dims)
        return sides >= 2 and self.datatype in _MULTIPLIED


@dataclass(frozen=True)
class Kernel:
    """One launch of an engine; `nodes` are the names of the ONNX nodes behind it."""

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    tactic: str
    nodes: tuple[str, ...]
    stream: int = 0

    @property
    def launches(self) -> bool:
        """False for stream events and for shape arithmetic on the host."""
        if self.kind in _EVENTS:
            return False
        on_host = self.kind in _HOST_TYPES and not self.nodes
        return not (on_host and all(tensor.is_scalar for tensor in (*self.inputs, *self.outputs)))

    @property
    def is_opaque(self) -> bool:
        """True for a compiled region that the inspector gives as one layer and does not open."""
        return "{ForeignNode[" in self.name

    @property
    def is_attention(self) -> bool:
        """True for a fused multi-head attention."""
        return bool(_ATTENTION_NAME.match(self.name)) or "fmha" in self.tactic

    @property
    def is_product(self) -> bool:
        """True for a matrix product or convolution that is no fused attention."""
        if self.is_attention:
            return False
        kind = self.kind.lower()
        named = bool(_PRODUCT_NAME.match(self.name))
        return kind in _PRODUCT_TYPES or "gemm" in kind or "convolution" in kind or named

    @property
    def product_datatype(self) -> str:
        """The datatype a product runs in: its weights', or its operands' when it has none.

        Operands of a fused kernel also hold residuals and biases, so the weights (the largest
        constant) decide, and without weights the first operand that is no scalar.
        """
        weights = [tensor for tensor in self.constants if not tensor.is_scalar]
        matrices = [tensor for tensor in weights if tensor.is_matrix]
        if matrices:
            return max(matrices, key=lambda tensor: prod(tensor.dims)).datatype
        operands = [tensor for tensor in self.inputs if not tensor.is_scalar]
        return operands[0].datatype if operands else "None"

    @property
    def attention_datatype(self) -> str:
        """The datatype of a fused attention's Q, K and V, which a mask may follow.

        Q tells: the compilers fuse either all three in one datatype, or not at all.
        """
        return self.inputs[0].datatype if self.inputs else "None"

    @property
    def byte_count(self) -> int | None:
        """Bytes read and written: inputs, constants and outputs; None if a size is open.

        An upper bound on memory traffic, since hits in the L2 cache are not modelled.
        """
        counts = [t.byte_count for t in (*self.inputs, *self.constants, *self.outputs)]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def is_layer_dump(message: str) -> bool:
    """Return whether a builder's log message is its list of layers."""
    return message.startswith("Layers:")


def parse_layer_dump(message: str) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Return the kernels, in order of execution, and the bindings that a `Layers:` message lists.

    Raises:
        ValueError: if a line of it cannot be read, so that nothing is ever left out unseen.
    """
    layers, _, rest = message.partition("\nI/O Tensors:")
    kernels = []
    for line in layers.splitlines()[1:]:
        if not line.strip():
            continue
        match = _DUMP_LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"the builder's layer list has a line of unknown form: {line[:200]}")
        kernels.append(
            Kernel(
                name=match["name"],
                kind=match["type"],
                inputs=_parse_tensors(match["inputs"]),
                constants=_parse_tensors(match["constants"]),
                outputs=_parse_tensors(match["outputs"]),
                tactic=match["tactic"],
                nodes=tuple(_ONNX_LAYER.findall(match["metadata"])),
                stream=int(match["stream"]),
            )
        )
    return tuple(kernels), tuple(match["name"] for match in _DUMP_BINDING.finditer(rest))


def parse_inspector(layers: Iterable[Mapping[str, Any] | str]) -> tuple[Kernel, ...]:
    """Return the kernels of `EngineInspector`'s JSON, `["Layers"]` of it.

    Raises:
        ValueError: if it holds names alone, as an engine without detailed verbosity gives.
    """
    kernels = []
    for layer in layers:
        if isinstance(layer, str):
            raise ValueError(f"layer '{layer[:80]}' has no details; build with detailed verbosity")
        kernels.append(
            Kernel(
                name=str(layer.get("Name", "")),
                kind=str(layer.get("LayerType", "")),
                inputs=_inspector_tensors(layer.get("Inputs", ())),
                constants=_inspector_tensors(layer.get("Constants", ())),
                outputs=_inspector_tensors(layer.get("Outputs", ())),
                tactic=str(layer.get("TacticName", "")),
                nodes=tuple(_ONNX_LAYER.findall(str(layer.get("Metadata", "")))),
                stream=int(layer.get("StreamId", 0)),
            )
        )
    return tuple(kernels)


def layers_document(
    kernels: Iterable[Kernel], bindings: Sequence[str], activation_bytes: int | None = None
) -> dict[str, Any]:
    """Return the kernels in the JSON shape of `trtexec --exportLayerInfo`.

    `ActivationBytes`, which the builder tells and no engine does, is our own key beside.
    """
    layers = [_layer_entry(kernel) for kernel in kernels]
    told = {} if activation_bytes is None else {ACTIVATION_BYTES: activation_bytes}
    return {"Layers": layers, "Bindings": list(bindings), **told}


def _layer_entry(kernel: Kernel) -> dict[str, Any]:
    return {
        "Name": kernel.name,
        "LayerType": kernel.kind,
        "Inputs": [_tensor_entry(tensor) for tensor in kernel.inputs],
        "Outputs": [_tensor_entry(tensor) for tensor in kernel.outputs],
        "Constants": [_tensor_entry(tensor) for tensor in kernel.constants],
        "TacticName": kernel.tactic,
        "StreamId": kernel.stream,
        "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in kernel.nodes),
    }


def _tensor_entry(tensor: KernelTensor) -> dict[str, Any]:
    return {
        "Name": tensor.name,
        "Location": "Device",
        "Dimensions": list(tensor.dims),
        "Strides": list(tensor.strides),
        "Format/Datatype": tensor.datatype,
        "Format": tensor.layout,
    }


def _parse_tensors(text: str) -> tuple[KernelTensor, ...]:
    tensors = tuple(
        KernelTensor(
            match["name"],
            _parse_numbers(match["dims"]),
            _parse_numbers(match["strides"]),
            match["datatype"],
            match["format"],
        )
        for match in _DUMP_TENSOR.finditer(text.strip())
    )
    if len(tensors) != text.count("{ Name: "):
        raise ValueError(f"the builder's layer list has operands of unknown form: {text[:200]}")
    return tensors


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number.strip())


def _inspector_tensors(entries: Iterable[Mapping[str, Any]]) -> tuple[KernelTensor, ...]:
    tensors = []
    for entry in entries:
        described = f"{entry.get('Datatype', '')} {entry.get('Format/Datatype', '')}"
        described = f"{described} {entry.get('Format', '')}"
        found = _DATATYPE.search(described)
        datatype = found[0] if found else "None"
        tensors.append(
            KernelTensor(
                str(entry.get("Name", "")),
                tuple(int(size) for size in entry.get("Dimensions", ())),
                tuple(int(stride) for stride in entry.get("Strides", ())),
                _SPELLINGS.get(datatype, datatype),
                str(entry.get("Format", "")),
            )
        )
    return tuple(tensors)
