"""The cast pass: fires, refuses, keeps the contract, and rounds no more than it must."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes import EXCEPTIONS
from export.passes.cast_precision import CastPrecisionPass
from export.passes.rounding_emulation import RoundingEmulationPass
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import random_images
from tests.tolerances import BF16_RMS, ORT_FP16_RMS

FP16, BF16, FP32 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
def test_fp16_scores_stay_close(head: str) -> None:
    images = random_images(1, 64, 64)
    (expected,) = run_graph(traced_graph(head, "scores"), images)
    model = traced_graph(head, "scores")
    assert CastPrecisionPass(FP16)(model).modified
    (got,) = run_graph(model, images)
    assert got.dtype == np.float32
    assert 0 < relative_rms(got, expected) < ORT_FP16_RMS


def test_bf16_scores_stay_close() -> None:
    images = random_images(1, 64, 64)
    (expected,) = run_graph(traced_graph(output="scores"), images)
    model = traced_graph(output="scores")
    CastPrecisionPass(BF16)(model)
    assert RoundingEmulationPass()(model).modified
    (got,) = run_graph(model, images)
    error = relative_rms(got, expected)
    assert error < BF16_RMS
    fp16 = traced_graph(output="scores")
    CastPrecisionPass(FP16)(fp16)
    # Eight significant bits instead of eleven: the emulation really rounds.
    assert error > 2 * relative_rms(run_graph(fp16, images)[0], expected)


@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_everything_inside_is_cast_and_the_contract_kept(dtype: ir.DataType) -> None:
    model = traced_graph(output="scores")
    CastPrecisionPass(dtype)(model)
    output = model.graph.outputs[0]
    assert (output.name, output.dtype) == ("scores", FP32)
    inner = [value for node in model.graph for value in node.outputs if value is not output]
    assert not [value.name for value in inner if value.dtype == FP32]
    assert not [v.name for v in model.graph.initializers.values() if v.dtype == FP32]


def test_twice_is_once() -> None:
    model = traced_graph()
    assert CastPrecisionPass(FP16)(model).modified
    assert not CastPrecisionPass(FP16)(model).modified


def test_kept_nodes_stay_float32_between_casts() -> None:
    model = traced_graph()
    images = random_images(1, 64, 64)
    CastPrecisionPass(FP16, {"^tail/": FP32})(model)
    kept = [node for node in model.graph if node.name and node.name.startswith("tail/")]
    floats = [v.dtype for node in kept for v in node.outputs if v.dtype in (FP16, FP32)]
    assert floats
    assert set(floats) == {FP32}
    assert run_graph(model, images)[0].dtype == np.uint8


def test_attributes_are_kept() -> None:
    def attributes(model: ir.Model) -> list[tuple[str, str]]:
        nodes = [node for node in model.graph if node.op_type not in ("Cast",)]
        return [(node.name or "", str(sorted(node.attributes))) for node in nodes]

    before = attributes(traced_graph())
    model = traced_graph()
    CastPrecisionPass(FP16)(model)
    assert attributes(model) == before


def test_a_clone_keeps_its_types() -> None:
    model = traced_graph()
    CastPrecisionPass(FP16)(model.clone())
    produced = [value for node in model.graph for value in node.outputs]
    assert FP16 not in {value.dtype for value in produced}


def test_refuses_weights_beyond_the_range() -> None:
    model = traced_graph()
    value = next(v for v in model.graph.initializers.values() if v.name == "encoder.1.fc1.weight")
    array = value.const_value.numpy().copy()
    array[0, 0] = 1e6
    value.const_value = ir.Tensor(array, name=value.name)
    with pytest.raises(
        ValueError,
        match=r"'encoder.1.fc1.weight' reaches 1e\+06, beyond FLOAT16's range; .* --bf16 or --fp32",
    ):
        CastPrecisionPass(FP16)(model)


@pytest.mark.parametrize(("dtype", "exceptions"), [(FP16, None), (BF16, EXCEPTIONS["bf16"])])
def test_bf16_is_not_advised_where_it_does_not_help(
    dtype: ir.DataType, exceptions: dict[str, ir.DataType] | None
) -> None:
    """The head is FP16 in a BF16 graph too."""
    model = traced_graph()
    value = next(v for v in model.graph.initializers.values() if "linear1.weight" in str(v.name))
    value.const_value = ir.Tensor(value.const_value.numpy() + np.float32(1e6), name=value.name)
    with pytest.raises(ValueError, match=r"beyond FLOAT16's range; build with --fp32$"):
        CastPrecisionPass(dtype, exceptions)(model)


def test_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="FLOAT16 or BFLOAT16, got DOUBLE"):
        CastPrecisionPass(ir.DataType.DOUBLE)
