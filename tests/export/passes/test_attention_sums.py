"""Attentions that ask for FP32 sums: the same labels, the same kernels, and other sums in them."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calibration.qdq_insertion import QdqInsertionPass, list_activations
from calibration.scheme import find_scheme
from engines.accumulators import read_attention_sums
from engines.audit import audit_engine, check_audit
from engines.target import Target
from engines.trt_builder import build_engine
from export.deploy import DeployModel
from export.passes import EXCEPTIONS, AttentionForm, deploy_passes
from export.passes.attention import find_attention
from export.passes.attention_sums import AttentionSumsPass
from export.passes.cast_precision import CastPrecisionPass
from export.passes.rounding_emulation import RoundingEmulationPass
from export.trace import trace_model
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import ORT_FP16_RMS

FP16, BF16, FP32 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


def _cast_graph(dtype: ir.DataType = FP16, **options: object) -> ir.Model:
    model = traced_graph(**options)  # type: ignore[arg-type]  # of that function
    CastPrecisionPass(dtype, EXCEPTIONS["bf16"] if dtype == BF16 else None)(model)
    return model


def _attentions(model: ir.Model) -> list[tuple[ir.DataType | None, ...]]:
    """Return the datatypes that each attention computes its logits, softmax and context in."""
    found = [find_attention(node) for node in model.graph if node.op_type == "Softmax"]
    return [tuple(n.outputs[0].dtype for n in attention) for attention in found if attention]


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
def test_both_matmuls_of_every_attention_become_fp32(head: str) -> None:
    model = _cast_graph(head=head)
    before = _attentions(model)
    nodes = len(model.graph)
    assert set(before) == {(FP16,) * 3}
    assert AttentionSumsPass()(model).modified
    assert not AttentionSumsPass()(model).modified
    assert _attentions(model) == [(FP32, FP16, FP32)] * len(before)
    assert len(model.graph) == nodes + 6 * len(before)


def test_bf16_graphs_ask_too_and_keep_their_types() -> None:
    model = _cast_graph(BF16)
    types = [attention[1] for attention in _attentions(model)]
    assert set(types) == {BF16, FP16}
    AttentionSumsPass()(model)
    assert _attentions(model) == [(FP32, kind, FP32) for kind in types]


def test_unfused_ones_are_fp32_throughout() -> None:
    model = _cast_graph()
    assert AttentionSumsPass(fused=False)(model).modified
    assert not AttentionSumsPass(fused=False)(model).modified
    assert set(_attentions(model)) == {(FP32,) * 3}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("is_rounded", [True, False])
def test_scores_stay_close(fused: bool, is_rounded: bool) -> None:
    images = random_images(1, 64, 64)
    (expected,) = run_graph(traced_graph(output="scores"), images)
    model = _cast_graph(output="scores")
    AttentionSumsPass(fused)(model)
    if is_rounded:
        RoundingEmulationPass()(model)
    (got,) = run_graph(model, images)
    assert 0 < relative_rms(got, expected) < ORT_FP16_RMS


def test_onnx_runtime_gives_the_same_scores_with_the_casts() -> None:
    images = random_images(1, 64, 64)
    plain = _cast_graph(output="scores")
    casts = plain.clone()
    AttentionSumsPass()(casts)
    for model in (plain, casts):
        RoundingEmulationPass()(model)
    np.testing.assert_array_equal(run_graph(casts, images)[0], run_graph(plain, images)[0])


def test_near_misses_are_left_alone() -> None:
    assert not AttentionSumsPass()(traced_graph()).modified  # FP32
    model = _cast_graph()
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    attentions = [a for node in softmaxes if (a := find_attention(node))]
    assert len(attentions) == len(softmaxes) - 1  # the softmax over classes is no attention
    for attention, value in ((attentions[0], 0), (attentions[1], 1)):
        model.graph.outputs.append(attention[value].outputs[0])
    AttentionSumsPass()(model)
    assert _attentions(model) == [(FP32, FP16, FP32)] * (len(attentions) - 2)
    assert attentions[0].logits.outputs[0].dtype == FP16


def _fusing_graph(attention: AttentionForm, precision: str = "fp16") -> ir.Model:
    """Return a graph of 64 tokens, enough for every datatype of fused attention."""
    config = make_config("single", image_size=128, depth=2, tap_blocks=(1,), embed_dim=96)
    model = trace_model(DeployModel(make_model(config), (128, 128)), (128, 128), 1)
    for graph_pass in deploy_passes(precision, attention):
        graph_pass(model)
    return model


def _build(model: ir.Model, path: Path, precision: str) -> tuple[object, Counter[str]]:
    ir.save(model, path)
    engine = build_engine(path, Target.TRT_RTX, ("SM89",), progress=False)
    audit = audit_engine(engine, path)
    check_audit(audit, precision)
    sums = read_attention_sums(engine.plan) or ()
    counted = Counter("FP32" if kernel.is_float32 else "FP16" for kernel in sums)
    assert counted.total() == audit.attentions
    return (audit.kernels, audit.fused_attentions, audit.traffic_mb), counted


@pytest.mark.trt_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_the_compiler_makes_the_same_kernels_with_fp32_sums(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
    figures, sums = [], []
    forms: tuple[AttentionForm, ...] = ("fp16-sums", "fp32-sums")
    for attention in forms:
        model = _fusing_graph(attention, "bf16" if precision == "bf16" else "fp16")
        if precision == "fp8":
            scheme = find_scheme("fp8", attention=True)
            limits = dict.fromkeys(list_activations(model.graph, scheme), 6.0)
            QdqInsertionPass(scheme, limits)(model)
        found, counted = _build(model, tmp_path / f"{attention}.onnx", precision)
        figures.append(found)
        sums.append(counted)
    assert figures[0] == figures[1]
    assert sums[0]["FP16"] > 0
    assert set(sums[1]) == {"FP32"}
