from __future__ import annotations

import pytest

from engines.kernels import (
    Kernel,
    KernelTensor,
    is_layer_dump,
    layers_document,
    parse_inspector,
    parse_layer_dump,
)

LINEAR = "Format: (Linear) Row major linear format"
# As TensorRT-RTX 1.7 writes it, shortened.
DUMP = f"""Layers:
Name: encoder/0/v+encoder/0/k_myl0_1, LayerType: gemm, Inputs: [ {{ Name: t1, Dimensions: [1,16,64], Strides: [1024,64,1], StrideOrder: [2,1,0], Datatype: Half, {LINEAR} }}], Constants: [ {{ Name: w, Dimensions: [2,64,64], Strides: [4096,64,1], StrideOrder: [2,1,0], Datatype: Half, {LINEAR} }}, {{ Name: alpha, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, {LINEAR} }}], Outputs: [ {{ Name: t2, Dimensions: [2,16,64], Strides: [1024,64,1], StrideOrder: [2,1,0], Datatype: Half, {LINEAR} }}], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: encoder/0/v][ONNX Layer: encoder/0/k]
Name: __mye29298_myl0_2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, Metadata:\x20
Name: __mye10_myl0_3, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:\x20
Name: __mye11_myl0_4, LayerType: reshape, Inputs: [], Constants: [], Outputs: [ {{ Name: h, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Int64, {LINEAR} }}], TacticName: , StreamId: 0, Metadata:\x20
Name: _gemm_mha_v2_myl0_5, LayerType: kgen, Inputs: [ {{ Name: t2, Dimensions: [2,16,32], Strides: [32,64,1], StrideOrder: [1,2,0], Datatype: Half, {LINEAR} }}, {{ Name: mask, Dimensions: [2,16,16], Strides: [0,16,1], StrideOrder: [2,1,0], Datatype: Float, {LINEAR} }}], Constants: [], Outputs: [ {{ Name: t3, Dimensions: [2,16,32], Strides: [32,64,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Arbitrary) Format with stride order = [1,2,0] }}], TacticName: _gemm_mha_v2_0xbd, StreamId: 1, Metadata: [ONNX Layer: encoder/0/softmax]
Name: __myl_FcAddAdd_myl0_6, LayerType: runtime_fusion, Inputs: [ {{ Name: x, Dimensions: [-1,64], Strides: [64,1], StrideOrder: [1,0], Datatype: Half, {LINEAR} }}], Constants: [ {{ Name: bias, Dimensions: [1,64], Strides: [64,1], StrideOrder: [1,0], Datatype: Half, {LINEAR} }}, {{ Name: w2, Dimensions: [64,64], Strides: [64,1], StrideOrder: [1,0], Datatype: FP8, {LINEAR} }}], Outputs: [ {{ Name: y, Dimensions: [-1,64], Strides: [64,1], StrideOrder: [1,0], Datatype: Half, {LINEAR} }}], TacticName: , StreamId: 0, Metadata: [ONNX Layer: encoder/0/fc2]

I/O Tensors:
 Name: image, IOMode: Input, DataType: UInt8, Dimensions: [1,64,64,3], Location: Device
 Name: labels, IOMode: Output, DataType: UInt8, Dimensions: [1,64,64], Location: Device
"""  # noqa: E501


@pytest.fixture
def kernels() -> tuple[Kernel, ...]:
    return parse_layer_dump(DUMP)[0]


def test_the_dump_is_known_by_its_first_word() -> None:
    assert is_layer_dump(DUMP)
    assert not is_layer_dump("Total Activation Memory: 1 bytes")


def test_names_types_and_nodes_are_read(kernels: tuple[Kernel, ...]) -> None:
    first = kernels[0]
    assert first.name == "encoder/0/v+encoder/0/k_myl0_1"
    assert (first.kind, first.tactic, first.stream) == ("gemm", "stub", 0)
    assert first.nodes == ("encoder/0/v", "encoder/0/k")
    assert [tensor.name for tensor in first.constants] == ["w", "alpha"]
    assert parse_layer_dump(DUMP)[1] == ("image", "labels")


def test_events_and_host_arithmetic_launch_nothing(kernels: tuple[Kernel, ...]) -> None:
    assert [kernel.launches for kernel in kernels] == [True, False, False, False, True, True]


def test_attentions_and_products_are_told_apart(kernels: tuple[Kernel, ...]) -> None:
    launched = [kernel for kernel in kernels if kernel.launches]
    assert [kernel.is_attention for kernel in launched] == [False, True, False]
    assert [kernel.is_product for kernel in launched] == [True, False, True]
    assert [k.product_datatype for k in launched if k.is_product] == ["Half", "FP8"]
    # The mask, in Float, is none of Q, K and V.
    assert [k.attention_datatype for k in launched if k.is_attention] == ["Half"]


def test_bytes_are_counted_as_each_kernel_views_them(kernels: tuple[Kernel, ...]) -> None:
    gemm, attention, dynamic = (kernel for kernel in kernels if kernel.launches)
    assert gemm.byte_count == 2 * (16 * 64 + 2 * 64 * 64 + 2 * 16 * 64) + 4
    # The mask repeats over heads with stride 0: its 16 x 16 floats are read once.
    assert attention.byte_count == 2 * (2 * 16 * 32) + 4 * (16 * 16) + 2 * (2 * 16 * 32)
    assert dynamic.byte_count is None


def test_what_is_written_is_nvidias_shape_and_reads_back(kernels: tuple[Kernel, ...]) -> None:
    document = layers_document(kernels, ("image", "labels"))
    assert set(document) == {"Layers", "Bindings"}
    assert document["Bindings"] == ["image", "labels"]
    layer = document["Layers"][0]
    assert {"Name", "LayerType", "Inputs", "Outputs", "TacticName", "Metadata"} <= set(layer)
    tensor = layer["Inputs"][0]
    assert tensor["Format/Datatype"] == "Half"
    assert tensor["Dimensions"] == [1, 16, 64]
    assert parse_inspector(document["Layers"]) == kernels


def test_inspector_spellings_of_either_version_are_read() -> None:
    layers = [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Dimensions": [1, 8, 4, 4],
                        "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "Outputs": [{"Name": "b", "Dimensions": [1, 8, 4, 4], "Datatype": "Half",
                         "Format": "Row major linear FP16 format"}],
            "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]",
        }
    ]  # fmt: skip
    (kernel,) = parse_inspector(layers)
    assert kernel.is_product
    assert kernel.product_datatype == "Half"
    assert kernel.nodes == ("a", "b")
    assert kernel.byte_count == 2 * 2 * 128
    with pytest.raises(ValueError, match="has no details; build with detailed verbosity"):
        parse_inspector(["conv"])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("LayerType: gemm, ", "", "has a line of unknown form: Name: encoder/0/v"),
        ("Dimensions: [2,64,64]", "Shape: [2,64,64]", "has operands of unknown form"),
    ],
)
def test_a_form_unknown_is_refused_not_skipped(before: str, after: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layer_dump(DUMP.replace(before, after))


def test_four_bit_tensors_count_half_a_byte() -> None:
    assert KernelTensor("w", (64, 64), (64, 1), "FP4").byte_count == 64 * 64 // 2
