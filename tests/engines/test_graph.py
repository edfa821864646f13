from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.audit import audit_kernels
from engines.graph import count_attentions, load_without_weights, read_graph
from segvit.config import find_variant

Writer = Callable[..., Path]


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    kinds = {"x": (1, 8, 16), "y": None}
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in kinds.items()
    )
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [source], [result], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=f"n/{output}", **attributes)


def test_attentions_and_products_are_found(segmenter: Writer) -> None:
    graph = read_graph(segmenter())
    assert graph.attentions == (
        "encoder/0/attn/softmax", "encoder/1/attn/softmax", "head/0/cross/softmax",
    )  # fmt: skip
    assert graph.products["encoder/0/fc1"] == "Half"
    assert set(graph.products.values()) == {"Half"}
    assert len(graph.products) == 1 + 2 * 8 + 6 + 4
    assert graph.attention_products == {
        f"{name}/softmax": (f"{name}/logits", f"{name}/context")
        for name in ("encoder/0/attn", "encoder/1/attn", "head/0/cross")
    }


def test_a_scale_and_a_mask_before_the_softmax_hide_no_product(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "k"], "logits"),
        node("Mul", ["logits", "s"], "scaled"),
        node("Add", ["scaled", "s"], "masked"),
        node("Softmax", ["masked"], "p", axis=-1),
        node("MatMul", ["p", "v"], "y"),
    ]
    constants = {"k": np.zeros((16, 8)), "v": np.zeros((8, 4)), "s": np.array(0.1)}
    halves = {name: value.astype(np.float16) for name, value in constants.items()}
    path = save(tmp_path / "m.onnx", nodes, halves)
    assert read_graph(path).attention_products == {"n/p": ("n/logits", "n/y")}


def test_the_softmax_over_classes_is_no_attention(segmenter: Writer) -> None:
    """It mixes masks through a product too, but transposed."""
    assert "head/class_softmax" not in read_graph(segmenter()).attentions


@pytest.mark.parametrize(("axis", "count"), [(-1, 1), (2, 1), (1, 0)])
def test_an_attention_normalises_the_last_axis(tmp_path: Path, axis: int, count: int) -> None:
    nodes = [
        node("Softmax", ["x"], "p", axis=axis),
        node("Cast", ["p"], "c", to=TensorProto.FLOAT16),
        node("MatMul", ["c", "v"], "y"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"v": np.zeros((16, 4), np.float16)})
    assert len(read_graph(path).attentions) == count


@pytest.mark.parametrize("between", ["Relu", "Neg", "Identity"])
def test_an_attention_is_found_whatever_stands_before_its_values(
    segmenter: Writer, between: str
) -> None:
    graph = read_graph(segmenter(between=between))
    assert len(graph.attentions) == 3
    assert graph.attention_products["head/0/cross/softmax"] == (
        "head/0/cross/logits", "head/0/cross/context",
    )  # fmt: skip


def test_values_on_the_left_are_an_attention_too(tmp_path: Path) -> None:
    nodes = [
        node("Softmax", ["x"], "p", axis=-1),
        node("Transpose", ["p"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["v", "turned"], "y"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"v": np.zeros((4, 16), np.float16)})
    assert read_graph(path).attentions == ("n/p",)


def test_casts_around_attention_ask_for_sums_not_for_single_precision(segmenter: Writer) -> None:
    graph = read_graph(segmenter(float_sums=True))
    assert set(graph.products.values()) == {"Half"}
    assert graph.float_sums == frozenset(graph.attentions)
    assert read_graph(segmenter()).float_sums == frozenset()


def test_an_attention_wholly_in_single_precision_asks_for_it(tmp_path: Path) -> None:
    nodes = [
        *(node("Cast", [name], f"{name}w", to=TensorProto.FLOAT) for name in "xkv"),
        node("MatMul", ["xw", "kw"], "logits"),
        node("Softmax", ["logits"], "p", axis=-1),
        node("MatMul", ["p", "vw"], "context"),
        node("Cast", ["context"], "y", to=TensorProto.FLOAT16),
    ]
    halves = {"k": np.zeros((16, 8), np.float16), "v": np.zeros((8, 4), np.float16)}
    graph = read_graph(save(tmp_path / "m.onnx", nodes, halves))
    assert graph.products == {"n/logits": "Float", "n/context": "Float"}
    assert graph.float_sums == frozenset()


def test_a_gemm_of_weights_alone_needs_no_kernel(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["a", "b"], "w"), node("MatMul", ["x", "w"], "y")]
    square = np.zeros((16, 16), np.float16)
    graph = read_graph(save(tmp_path / "m.onnx", nodes, {"a": square, "b": square}))
    assert graph.constants == {"n/w"}
    assert "1 of 2 GEMMs" in audit_kernels((), graph).unaudited[0]


# Blocks, and two attentions a decoder layer but for the first of each set of constant queries.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_b_ade20k", 12 + 17),
        ("vit_l_ade20k", 24 + 17),
        ("vit_l_shrunk_ade20k", 24 + 11 + 5),
        ("vit_t_landcover", 6 + 11),
        ("vit_t_shrunk_landcover", 6 + 7 + 3),
    ],
)
def test_attentions_are_counted_by_the_description(name: str, count: int) -> None:
    assert count_attentions(find_variant(name)) == count


def test_a_graph_that_hides_an_attention_of_its_description_is_noticed(
    segmenter: Writer, tmp_path: Path
) -> None:
    model = onnx.load(segmenter())
    config = find_variant("vit_t_landcover")
    for key, value in (("model", "{}"), ("config", config.to_json())):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "m.onnx")
    audit = audit_kernels((), read_graph(tmp_path / "m.onnx"))
    assert audit.attentions == 17
    assert "description has 17 attentions, its ONNX graph shows 3" in audit.unaudited[0]


def test_a_product_kept_in_single_precision_is_known(segmenter: Writer) -> None:
    graph = read_graph(segmenter(float_head=True))
    assert [name for name, kind in graph.products.items() if kind == "Float"] == ["head/class"]


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.INT8, "Int8"), (TensorProto.FLOAT8E4M3FN, "FP8")]
)
def test_quantised_operands_ask_for_their_stored_type(tmp_path: Path, kind: int, name: str) -> None:
    scale = np.array(0.1, np.float16)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w", "s", "z"], "dw"),
        node("Transpose", ["dw"], "wt", perm=[1, 0]),
        node("MatMul", ["d", "wt"], "m"),
        node("MatMul", ["m", "half"], "y"),
    ]
    constants = {"s": scale, "z": np.zeros((), dtype), "w": np.zeros((4, 16), dtype)}
    path = save(tmp_path / "m.onnx", nodes, {**constants, "half": np.zeros((4, 4), np.float16)})
    assert read_graph(path).products == {"n/m": name, "n/y": "Half"}


def test_nameless_nodes_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "v"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"v": np.zeros((16, 4), np.float16)})
    with pytest.raises(ValueError, match="the MatMul that gives 'y' has no name"):
        read_graph(path)


def test_what_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for content in (b"", b"hello", bytes(range(256)) * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.onnx' is no ONNX model"):
            read_graph(path)
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "none.onnx")


def test_weights_are_left_out_of_shape_inference(segmenter: Writer) -> None:
    path = segmenter()
    model = load_without_weights(path)
    assert model.ByteSize() < path.stat().st_size / 2
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.value_info}
    assert [size.dim_value for size in shapes["encoder/0/fc1"].dim] == [1, 16, 256]
