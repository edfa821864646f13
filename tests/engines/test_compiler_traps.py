"""What the compiler does with forms that this project writes or avoids: a new one may differ.

Each test builds for real and states what the graph's form rests on. Others that do: test_audit.py
(QK^T read twice, FP32 and BF16, biases before attention at full size), test_trt_builder.py (BF16 on
SM75, repeated builds). Shapes: `S` tokens, `C` channels, `d` channels a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.audit import Audit, audit_engine
from engines.target import Target
from engines.trt_builder import BuiltEngine, EngineBuildError, build_engine

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx

HALF, FLOAT, UINT8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.UINT8
INT8, FP8 = np.dtype(np.int8), np.dtype(ml_dtypes.float8_e4m3fn)


class Form:
    """A small graph in the making: `x` (1, S, C) in, `y` (1, S, C) out."""

    def __init__(
        self, tokens: int = 64, head_dim: int = 64, kind: int = HALF, opset: int = 20
    ) -> None:
        self.tokens, self.head_dim, self.heads, self.opset = tokens, head_dim, 2, opset
        self.kind, self.dim = kind, 2 * head_dim
        self.scales: dict[str, float] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def split(self, x: str, names: list[str]) -> list[str]:
        self.nodes.append(
            helper.make_node("Split", [x], names, name=names[0], axis=2, num_outputs=len(names))
        )
        return names

    def tensor(self, name: str, values: Any, dtype: Any = None) -> str:
        array = np.asarray(values).astype(dtype or helper.tensor_dtype_to_np_dtype(self.kind))
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, columns: int) -> str:
        return self.tensor(name, self.rng.standard_normal((self.dim, columns)) / self.dim**0.5)

    def product(self, x: str, name: str, columns: int | None = None) -> str:
        return self.add("MatMul", [x, self.weight(f"{name}/w", columns or self.dim)], name)

    def qdq(self, x: str, low: np.dtype[Any], scale: float = 0.02, zero: int = 0) -> str:
        inputs = [self.tensor(f"{x}/scale", scale), self.tensor(f"{x}/zero", zero, low)]
        y = self.add("QuantizeLinear", [x, *inputs], f"{x}/low")
        return self.add("DequantizeLinear", [y, *inputs], f"{x}/high")

    def low_product(
        self, x: str, name: str, columns: int, low: np.dtype[Any], by_channel: bool = False
    ) -> str:
        """Return `x` (1, S, C) times a quantised weight of one scale, or one an output channel."""
        rows = 4 * self.dim if name == "fc2" else self.dim
        stored = self.rng.integers(-127, 128, (rows, columns))
        steps = np.linspace(0.0005, 0.001, columns) if by_channel else 0.001
        inputs = [self.tensor(f"{name}/low", stored, low), self.tensor(f"{name}/scale", steps)]
        attributes = {"axis": 1} if by_channel else {}
        weight = self.add("DequantizeLinear", inputs, f"{name}/w", **attributes)
        return self.add("MatMul", [self.qdq(x, low), weight], name)

    def biased(self, x: str, columns: int | None = None) -> str:
        bias = self.tensor(f"{x}/bias", self.rng.standard_normal(columns or self.dim))
        return self.add("Add", [x, bias], f"{x}/add")

    def heads_of(self, x: str, perm: list[int]) -> str:
        shape = self.tensor(f"{x}/shape", [1, self.tokens, self.heads, self.head_dim], np.int64)
        y = self.add("Reshape", [x, shape], f"{x}/split")
        return self.add("Transpose", [y], f"{x}/heads", perm=perm)

    def attend(
        self, query: str, key: str, value: str, low: np.dtype[Any] = FP8, quantised: str = ""
    ) -> str:
        """Return the context (1, S, C).

        `quantised` says which of q, k, v, p (the softmax's output) and o (the context) have Q/DQ.
        """

        def through(letter: str, x: str) -> str:
            return self.qdq(x, low, scales.get(letter, 0.02)) if letter in quantised else x

        scales = {"p": 1 / 448 if low == FP8 else 1 / 127, **self.scales}

        q, v = (self.heads_of(x, [0, 2, 1, 3]) for x in (query, value))
        k = self.heads_of(key, [0, 2, 3, 1])
        logits = self.add("MatMul", [through("q", q), through("k", k)], "logits")
        weights = self.add("Softmax", [logits], "softmax", axis=-1)
        weights = through("p", weights)
        y = self.add("MatMul", [weights, through("v", v)], "context")
        y = self.add("Transpose", [y], "join", perm=[0, 2, 1, 3])
        shape = self.tensor("flatten/shape", [1, self.tokens, self.dim], np.int64)
        return through("o", self.add("Reshape", [y, shape], "flatten"))

    def build(
        self, y: str, folder: Path, extra: dict[str, list[int]] | None = None, sm: str = "SM89"
    ) -> tuple[BuiltEngine, Audit]:
        """Return the engine and its audit; `extra` outputs by name and shape."""
        self.add("Identity", [y], "y")
        shapes = {"y": [1, self.tokens, self.dim], **(extra or {})}
        source = helper.make_tensor_value_info("x", self.kind, [1, self.tokens, self.dim])
        results = [helper.make_tensor_value_info(n, self.kind, s) for n, s in shapes.items()]
        graph = helper.make_graph(self.nodes, "form", [source], results, self.tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = folder / "model.onnx"
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        engine = build_engine(path, Target.TRT_RTX, (sm,), progress=False)
        return engine, audit_engine(engine, path)


def make_attention(form: Form, low: np.dtype[Any] = FP8, quantised: str = "") -> str:
    """Return attention of three products without bias, and its projection."""
    query, key, value = (form.product("x", name) for name in "qkv")
    return form.product(form.attend(query, key, value, low, quantised), "proj")


@dataclass(frozen=True)
class Fusion:
    """What became of one attention: its datatype, None if it became several kernels."""

    datatype: str | None
    kernels: int


def fuse(form: Form, folder: Path, low: np.dtype[Any] = FP8, quantised: str = "") -> Fusion:
    _, audit = form.build(make_attention(form, low, quantised), folder)
    return Fusion(next(iter(audit.attention_datatypes), None), audit.kernels)


def test_attention_fuses_in_half_and_not_in_single(tmp_path: Path) -> None:
    assert fuse(Form(), tmp_path) == Fusion("Half", 3)
    assert fuse(Form(kind=FLOAT), tmp_path).datatype is None


def test_attention_of_one_head_never_fuses(tmp_path: Path) -> None:
    form = Form(head_dim=64)
    form.heads, form.dim = 1, 64
    assert fuse(form, tmp_path).datatype is None


def test_a_full_width_product_beside_attention_leaves_it_fused(tmp_path: Path) -> None:
    """The mean over heads of QK^T, which a mask head needs, read from the logits and not."""
    masks = {"masks": [1, 64, 64]}
    form = Form()
    y = make_attention(form)
    axes = form.tensor("axes", [1], np.int64)
    form.add("ReduceMean", ["logits", axes], "masks", keepdims=0)
    _, tapped = form.build(y, tmp_path, masks)
    form = Form()
    y = make_attention(form)
    turned = form.add("Transpose", ["k"], "turned", perm=[0, 2, 1])
    form.add("MatMul", ["q", turned], "masks")
    engine, beside = form.build(y, tmp_path, masks)
    assert (tapped.fused_attentions, beside.fused_attentions) == (0, 1)
    # The product and attention run beside each other: what they wait with is no kernel.
    events = [kernel for kernel in engine.kernels if kernel.kind in ("signal", "wait")]
    assert {kernel.kind for kernel in events} == {"signal", "wait"}
    assert not any(event.inputs or event.outputs or event.tactic for event in events)
    assert beside.kernels == len(engine.kernels) - len(events)


@pytest.mark.parametrize(
    ("quantised", "datatype"), [("qkvp", "FP8"), ("qkv", None), ("kvp", None), ("", "Half")]
)
def test_fp8_attention_fuses_with_all_four_quantised(
    quantised: str, datatype: str | None, tmp_path: Path
) -> None:
    form = Form()
    engine, audit = form.build(make_attention(form, FP8, quantised), tmp_path)
    assert next(iter(audit.attention_datatypes), None) == datatype
    # What the kernel says of its operands, its code says too.
    assert (b"fmha::Ada_qmma_e4m3" in engine.plan) == (datatype == "FP8")


def test_scales_of_their_own_for_q_k_and_v_cost_kernels(tmp_path: Path) -> None:
    """Why the encoder's share one: the QKV product then writes FP8 itself."""
    kernels = []
    for scales in ((0.02, 0.02, 0.02), (0.01, 0.02, 0.03)):
        form = Form()
        y = form.low_product("x", "qkv", 3 * form.dim, FP8)
        form.scales = dict(zip("qkv", scales, strict=True))
        y = form.attend(*form.split(y, ["q", "k", "v"]), FP8, "qkvp")
        _, audit = form.build(form.product(y, "proj"), tmp_path)
        assert audit.attention_datatypes == {"FP8": 1}
        kernels.append(audit.kernels)
    assert kernels[1] > kernels[0]


@pytest.mark.parametrize(("tokens", "head_dim"), [(16, 64), (64, 264)])
def test_fp8_attention_needs_32_tokens_and_at_most_256_channels(
    tokens: int, head_dim: int, tmp_path: Path
) -> None:
    assert fuse(Form(tokens, head_dim), tmp_path, FP8, "qkvp").datatype is None


@pytest.mark.parametrize(
    ("tokens", "head_dim", "quantised", "datatype"),
    [
        (512, 64, "qkvpo", "Int8"),
        (528, 64, "qkvpo", None),
        (64, 80, "qkvpo", None),
        (64, 64, "qkvp", None),
    ],
)
def test_int8_attention_fuses_when_short_narrow_and_quantised_throughout(
    tokens: int, head_dim: int, quantised: str, datatype: str | None, tmp_path: Path
) -> None:
    """At 512 px it is none of these, which is why INT8 leaves attention alone."""
    assert fuse(Form(tokens, head_dim), tmp_path, INT8, quantised).datatype == datatype


@pytest.mark.parametrize(("biased", "kernels"), [("", 3), ("q", 6), ("qkv", 6)])
def test_one_bias_before_attention_costs_three_copies(
    biased: str, kernels: int, tmp_path: Path
) -> None:
    form = Form()
    views = [form.product("x", name) for name in "qkv"]
    views = [form.biased(x) if x in biased else x for x in views]
    _, audit = form.build(form.product(form.attend(*views), "proj"), tmp_path)
    assert (audit.fused_attentions, audit.kernels) == (1, kernels)


def test_scales_by_channel_on_a_packed_qkv_cost_kernels(tmp_path: Path) -> None:
    kernels = []
    for by_channel in (False, True):
        form = Form()
        y = form.low_product("x", "qkv", 3 * form.dim, INT8, by_channel)
        y = form.attend(*form.split(y, ["q", "k", "v"]))
        _, audit = form.build(form.product(y, "proj"), tmp_path)
        assert audit.gemm_datatypes["Int8"] == 1
        kernels.append(audit.kernels)
    assert kernels[1] > kernels[0]


def test_a_zero_point_other_than_zero_is_refused(tmp_path: Path) -> None:
    form = Form()
    y = form.product(form.qdq("x", INT8, zero=3), "proj")
    with pytest.raises(EngineBuildError, match=r"cannot be parsed .*[zZ]ero"):
        form.build(y, tmp_path)


def test_fp8_is_refused_before_ada(tmp_path: Path) -> None:
    form = Form()
    y = form.product(form.qdq("x", FP8), "proj")
    with pytest.raises(
        EngineBuildError, match=r"engine for trt-rtx SM86 was not built: .*(?i:fp8)"
    ):
        form.build(y, tmp_path, sm="SM86")


def test_bytes_between_two_nodes_are_refused(tmp_path: Path) -> None:
    """Labels become bytes in the very last node, for that reason."""
    form = Form()
    y = form.add("Cast", ["x"], "bytes", to=UINT8)
    y = form.add("Transpose", [y], "turned", perm=[0, 2, 1])
    y = form.add("Transpose", [y], "back", perm=[0, 2, 1])
    with pytest.raises(EngineBuildError, match=r"(?i)uint8"):
        form.build(form.add("Cast", [y], "halves", to=HALF), tmp_path)


@pytest.mark.parametrize(("low", "kernels"), [(FP8, 3), (INT8, 4)])
def test_a_gelu_writes_fp8_in_the_products_kernel_and_int8_in_its_own(
    low: np.dtype[Any], kernels: int, tmp_path: Path
) -> None:
    """Why FP8 leaves fc1 in FP16 and why INT8 gains little: fc1, fc2 and what joins neither."""
    form = Form()
    y = form.biased(form.product("x", "fc1", 4 * form.dim), 4 * form.dim)
    y = form.add("Gelu", [y], "gelu")
    _, audit = form.build(form.low_product(y, "fc2", form.dim, low), tmp_path)
    assert audit.kernels == kernels


@pytest.mark.parametrize(("low", "copies"), [(FP8, 0), (INT8, 1)])
def test_an_int8_projection_costs_a_copy_behind_attention(
    low: np.dtype[Any], copies: int, tmp_path: Path
) -> None:
    form = Form()
    y = form.attend(*(form.product("x", name) for name in "qkv"))
    engine, audit = form.build(form.low_product(y, "proj", form.dim, low), tmp_path)
    assert audit.attention_datatypes == {"Half": 1}
    moves = [kernel.name for kernel in engine.kernels if "ReshTran" in kernel.name]
    assert len(moves) == copies, [kernel.name for kernel in engine.kernels]


@pytest.mark.parametrize(("kind", "fused"), [(HALF, 1), (FLOAT, 0)])
def test_the_attention_operator_compiles_as_its_parts_do(
    kind: int, fused: int, tmp_path: Path
) -> None:
    """Why attention is exported as products and a softmax, which any opset and runtime has."""
    form = Form(kind=kind, opset=23)
    views = [form.product("x", name) for name in "qkv"]
    y = form.add("Attention", views, "attention", q_num_heads=2, kv_num_heads=2)
    _, operator = form.build(form.product(y, "proj"), tmp_path)
    form = Form(kind=kind)
    _, parts = form.build(make_attention(form), tmp_path)
    assert operator.fused_attentions == parts.fused_attentions == fused
    assert operator.kernels == parts.kernels


def test_builds_of_quantised_attention_repeat_byte_for_byte(tmp_path: Path) -> None:
    plans = []
    for _ in range(2):
        form = Form()
        plans.append(form.build(make_attention(form, FP8, "qkvp"), tmp_path)[0].plan)
    assert plans[0] == plans[1]
