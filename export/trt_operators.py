"""What TensorRT takes of ONNX: operators, datatypes and attributes, with the documents that say so.

A fact is what **every** document that could be read allows: where two contradict each other, the
stricter one counts. No version documents all of it, so the documents are of versions on both sides
of 10.3 and of 10.8; docs/tensorrt-hygiene.md lists what could not be looked up. Only what our
graphs use is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The parser's support matrix: onnx/onnx-tensorrt, docs/operators.md, as of two versions.
_MATRIX_9_2 = "onnx-tensorrt operators.md of TensorRT 9.2"
_MATRIX_10_15 = "onnx-tensorrt operators.md of TensorRT 10.15"
MATRIX = (_MATRIX_9_2, _MATRIX_10_15)
# The C++ and Python reference of the datatypes themselves.
DATATYPES = "DataType reference: NvInferRuntimeBase.h 10.7, Python API 8.6.1 and 10.14"


def _page(layer: str, versions: str) -> str:
    """Return how NVIDIA's page about a layer is called here."""
    return f"{layer} page of TensorRT {versions}"


_FLOATS = frozenset({"float32", "float16", "bfloat16"})
_INTEGERS = frozenset({"int32", "int64"})
_NUMBERS = _FLOATS | _INTEGERS
_ANY = _NUMBERS | {"bool"}
_INDICES = _INTEGERS
_SHAPE = frozenset({"int64"})
_LOW = frozenset({"int8", "float8e4m3fn"})

# uint8 converts from and to these alone, whatever the page about Cast says (DATATYPES).
UINT8_PARTNERS = frozenset({"float32", "float16"})

# Values that an attribute may have; None where any may stand.
Attributes = Mapping[str, tuple[int | str, ...] | None]


@dataclass(frozen=True)
class Operator:
    """What is known of one ONNX operator.

    Attributes:
        types: of the inputs and outputs that `inputs` and `outputs` do not name.
        sources: the documents that allow this.
        inputs: datatypes of inputs, by index, that have their own.
        outputs: datatypes of outputs, by index, that have their own.
        attributes: the attributes that may be given, with the values allowed.
        constants: inputs that have to be constants.
        max_outputs: how many outputs may be read.
    """

    types: frozenset[str]
    sources: tuple[str, ...]
    inputs: Mapping[int, frozenset[str]] = field(default_factory=dict)
    outputs: Mapping[int, frozenset[str]] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    max_outputs: int | None = None


def _elementwise(types: frozenset[str]) -> Operator:
    """Return the row of an operator of one or two operands that has no attributes."""
    # NVIDIA's ElementWise page could be read as of 8.5.3 alone, which knows no bfloat16 and int64.
    return Operator(types, MATRIX)


def _reduction() -> Operator:
    return Operator(
        _NUMBERS,
        (*MATRIX, _page("Reduce", "10.1")),
        inputs={1: _SHAPE},
        attributes={"keepdims": None, "noop_with_empty_axes": (0,)},
        constants=(1,),  # the axes, from 10.15's matrix
    )


OPERATORS: Mapping[str, Operator] = {
    "Add": _elementwise(_NUMBERS),
    "ArgMax": Operator(
        _NUMBERS,
        (*MATRIX, _page("TopK", "10.14")),
        outputs={0: _SHAPE},
        # Neither document says what happens to `select_last_index`: its default alone.
        attributes={"axis": None, "keepdims": None, "select_last_index": (0,)},
    ),
    "Cast": Operator(
        _ANY | {"uint8"},  # see UINT8_PARTNERS; int8 is in 9.2's matrix, not in 10.15's
        (*MATRIX, _page("Cast", "10.1, 10.6 and 10.14"), DATATYPES),
        attributes={"to": None, "saturate": (1,)},
    ),
    "Clip": _elementwise(_FLOATS),
    "Concat": Operator(
        _ANY,
        (*MATRIX, _page("Concatenation", "10.6 and 10.14")),
        attributes={"axis": None},
    ),
    "Conv": Operator(
        _FLOATS,
        MATRIX,
        attributes=dict.fromkeys(("dilations", "group", "kernel_shape", "pads", "strides"))
        | {"auto_pad": ("NOTSET",)},
    ),
    "DequantizeLinear": Operator(
        _FLOATS,
        (*MATRIX, _page("Dequantize", "8.6.1")),
        inputs={0: _LOW, 2: _LOW},
        attributes={"axis": None, "block_size": (0,)},
        constants=(1, 2),
    ),
    "Div": _elementwise(_NUMBERS),
    "Expand": Operator(_ANY, MATRIX, inputs={1: _SHAPE}),
    "Floor": Operator(_FLOATS, (*MATRIX, _page("Unary", "10.6 and 10.14, cut before FLOOR"))),
    "Gather": Operator(
        _ANY,
        (*MATRIX, _page("Gather", "10.14")),
        inputs={1: _INDICES},
        attributes={"axis": None},
    ),
    # Opset 20, so not in 9.2's matrix; NVIDIA's Activation pages list no GELU before 10.15 either.
    "Gelu": Operator(_FLOATS, (_MATRIX_10_15,), attributes={"approximate": ("none", "tanh")}),
    "Gemm": Operator(
        _FLOATS, MATRIX, attributes=dict.fromkeys(("alpha", "beta", "transA", "transB"))
    ),
    "Identity": Operator(_ANY, MATRIX),
    "LayerNormalization": Operator(
        _FLOATS,
        (*MATRIX, _page("Normalization", "10.7")),
        attributes={"axis": None, "epsilon": None, "stash_type": (1,)},
        max_outputs=1,
    ),
    "MatMul": Operator(_FLOATS, (*MATRIX, _page("MatrixMultiply", "10.1"))),
    "Max": _elementwise(_NUMBERS),
    "Min": _elementwise(_NUMBERS),
    "Mul": _elementwise(_NUMBERS),
    "Neg": Operator(_NUMBERS, (*MATRIX, _page("Unary", "10.6 and 10.14, cut before NEG"))),
    "Pad": Operator(
        _NUMBERS,
        (*MATRIX, _page("Slice", "10.14")),  # modes: its FILL
        inputs={1: _SHAPE, 3: _INDICES},
        attributes={"mode": ("constant",)},
    ),
    "QuantizeLinear": Operator(
        _FLOATS,
        (*MATRIX, _page("Quantize", "10.1")),
        inputs={2: _LOW},
        outputs={0: _LOW},
        attributes={"axis": None, "block_size": (0,), "saturate": (1,)},
        constants=(1, 2),
    ),
    "ReduceMax": _reduction(),
    "ReduceMean": _reduction(),
    "ReduceMin": _reduction(),
    "ReduceSum": _reduction(),
    "Relu": Operator(
        _FLOATS, (*MATRIX, _page("Activation", "10.1, 10.7, 10.14 and 10.16"))
    ),
    "Reshape": Operator(
        _NUMBERS | {"bool"},
        (*MATRIX, _page("Shuffle", "10.0.1")),
        inputs={1: _SHAPE},
        attributes={"allowzero": None},
    ),
    "Resize": Operator(
        _FLOATS,
        (*MATRIX, _page("Resize", "10.0.1 and 10.14")),
        inputs={1: _FLOATS, 2: frozenset({"float32"}), 3: _SHAPE},
        attributes={
            "antialias": (0,),
            "coordinate_transformation_mode": (
                "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric",
                "align_corners",
            ),
            "cubic_coeff_a": None,  # means nothing in these modes
            "exclude_outside": (0,),
            "extrapolation_value": None,  # nor does this
            "keep_aspect_ratio_policy": ("stretch",),
            "mode": ("nearest", "linear"),
            "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        },
    ),
    "Shape": Operator(
        _ANY,
        (*MATRIX, _page("Shape", "10.7 and 10.14")),
        outputs={0: _SHAPE},
        attributes={"start": None, "end": None},
    ),
    "Sigmoid": Operator(
        _FLOATS, (*MATRIX, _page("Activation", "10.1, 10.7, 10.14 and 10.16"))
    ),
    "Slice": Operator(
        _ANY,
        (*MATRIX, _page("Slice", "10.14")),
        inputs=dict.fromkeys((1, 2, 3, 4), _INDICES),
        constants=(3,),  # the axes, from 9.2's matrix
    ),
    "Softmax": Operator(
        _FLOATS, (*MATRIX, _page("SoftMax", "10.1 and 10.14")), attributes={"axis": None}
    ),
    "Split": Operator(
        _ANY, MATRIX, inputs={1: _SHAPE}, attributes={"axis": None, "num_outputs": None}
    ),
    "Squeeze": Operator(_ANY, MATRIX, inputs={1: _SHAPE}, constants=(1,)),
    "Sub": _elementwise(_NUMBERS),
    "Transpose": Operator(
        _ANY, (*MATRIX, _page("Shuffle", "10.0.1")), attributes={"perm": None}
    ),
    "Unsqueeze": Operator(_ANY, MATRIX, inputs={1: _SHAPE}, constants=(1,)),
}  # fmt: skip
