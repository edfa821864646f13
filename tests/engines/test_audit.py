from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines.audit import Audit, AuditError, audit_engine, audit_kernels, check_audit
from engines.graph import read_graph
from engines.target import Target
from engines.trt_builder import BuiltEngine, build_engine

pytest.importorskip("tensorrt_rtx", reason="the audit reads engines that TensorRT-RTX builds")
pytestmark = pytest.mark.trt_rtx
Writer = Callable[..., Path]
Built = Callable[..., tuple[BuiltEngine, Path]]


def build(path: Path) -> BuiltEngine:
    return build_engine(path, Target.TRT_RTX, ("SM89",), progress=False)


@pytest.fixture(scope="module")
def built(segmenter: Writer) -> Built:
    """A function that builds a segmenter for SM89, once for all tests."""
    known: dict[str, tuple[BuiltEngine, Path]] = {}

    def make(**options: Any) -> tuple[BuiltEngine, Path]:
        key = repr(sorted(options.items()))
        if key not in known:
            path = segmenter(**options)
            known[key] = build(path), path
        return known[key]

    return make


def quantise_attention(source: Path, path: Path, operands: str = "qkpv") -> Path:
    """Write a segmenter whose encoder's attentions have FP8 Q/DQ on some of q, k, p and v.

    Give one of 32 tokens or more: with less, no compiler fuses them.
    """
    model = onnx.load(source)
    zero = numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), "zero")
    scales = {"tokens": 6 / 448, "weights": 1 / 448}
    model.graph.initializer.append(zero)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(scale, np.float16), name) for name, scale in scales.items()
    )
    nodes = []
    for node in model.graph.node:
        names = {"logits": "qk", "context": "pv"}.get(node.name.split("/")[-1], "")
        for index, name in enumerate(names if node.name.startswith("encoder/") else ""):
            if name in operands:
                value, scale = node.input[index], "weights" if name == "p" else "tokens"
                for op, end in (("QuantizeLinear", "low"), ("DequantizeLinear", "high")):
                    output = f"{node.name}/{name}/{end}"
                    nodes.append(helper.make_node(op, [value, scale, "zero"], [output], output))
                    value = output
                node.input[index] = value
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


# Counted by hand in the compiler's output: ViT-B blocks, 1024 tokens, FP16. Three biases between
# the QKV product and attention cost three copies a block.
@pytest.mark.parametrize(
    ("with_bias", "kernels", "traffic"), [(False, 21, 165.2), (True, 30, 193.5)]
)
def test_counts_are_those_counted_by_hand(
    blocks: Writer, with_bias: bool, kernels: int, traffic: float
) -> None:
    path = blocks(with_bias)
    audit = audit_engine(build(path), path)
    assert audit.kernels == kernels
    assert audit.traffic_mb == pytest.approx(traffic, abs=0.05)
    assert (audit.attentions, audit.fused_attentions) == (3, 3)
    assert audit.gemm_datatypes == {"Half": 12}  # QKV as one, projection, two of the MLP
    assert list(audit.parts) == ["encoder"]


def test_a_half_precision_engine_passes(built: Built) -> None:
    engine, path = built()
    audit = audit_engine(engine, path)
    check_audit(audit, "fp16")
    assert (audit.attentions, audit.fused_attentions, audit.unfused) == (3, 3, ())
    assert set(audit.gemm_datatypes) == {"Half"}
    assert set(audit.parts) == {"patch embed", "encoder", "head", "tail"}
    assert sum(part.kernels for part in audit.parts.values()) == audit.kernels
    traffic = sum(part.traffic_mb or 0 for part in audit.parts.values())
    assert traffic == pytest.approx(audit.traffic_mb)
    assert audit.activation_mb is not None
    assert audit.activation_mb > 0
    assert f"{audit.kernels} kernels, 3 of 3 attentions fused" in audit.describe()
    summary = audit.summary()
    assert (summary.kernels, summary.gemm_datatypes) == (audit.kernels, audit.gemm_datatypes)


def test_bfloat16_fuses_too(built: Built) -> None:
    engine, path = built(precision="bf16")
    audit = audit_engine(engine, path)
    check_audit(audit, "bf16")
    assert audit.fused_attentions == 3
    assert set(audit.gemm_datatypes) == {"BFloat16"}


def test_single_precision_never_fuses_and_that_is_no_error(built: Built) -> None:
    engine, path = built(precision="fp32")
    audit = audit_engine(engine, path)
    check_audit(audit, "fp32")
    assert (audit.attentions, audit.fused_attentions) == (3, 0)
    assert set(audit.gemm_datatypes) == {"Float"}


def test_an_attention_whose_logits_are_read_is_named(built: Built) -> None:
    engine, path = built(read_logits=True)
    audit = audit_engine(engine, path)
    assert audit.unfused == ("head/0/cross/softmax",)
    with pytest.raises(
        AuditError, match="1 of 3 attentions did not fuse in fp16: head/0/cross"
    ) as e:
        check_audit(audit, "fp16")
    assert "--allow-unfused" in str(e.value)
    check_audit(audit, "fp16", allow_unfused=True)


def test_what_the_graph_keeps_in_single_precision_passes(built: Built) -> None:
    engine, path = built(float_head=True)
    audit = audit_engine(engine, path)
    assert audit.gemm_datatypes["Float"] == 1
    check_audit(audit, "fp16")


def test_a_graph_that_was_never_cast_is_refused(built: Built) -> None:
    engine, path = built(precision="fp32")
    audit = audit_engine(engine, path)
    with pytest.raises(
        AuditError, match=r"precision fp16 was asked .* only 0 of \d+ products"
    ) as e:
        check_audit(audit, "fp16")
    assert "--fp16" in str(e.value)


def test_products_in_another_datatype_than_the_graphs_are_named(built: Built) -> None:
    """Kernels of the FP32 engine held against the FP16 graph: what a disobedient builder gives."""
    engine, _ = built(precision="fp32")
    _, half_path = built()
    audit = audit_kernels(engine.kernels, read_graph(half_path))
    with pytest.raises(AuditError, match="do not run in the datatype") as e:
        check_audit(audit, "fp16", allow_unfused=True)
    assert "patch_embed/proj (asked Half, got Float)" in str(e.value)


def test_a_dynamic_batch_leaves_bytes_open(segmenter: Writer) -> None:
    from engines.trt_builder import BuildOptions

    path = segmenter(batch="batch")
    options = BuildOptions(batch=(1, 2, 4))
    engine = build_engine(path, Target.TRT_RTX, ("SM89",), options, progress=False)
    audit = audit_engine(engine, path)
    assert audit.traffic_mb is None
    assert audit.activation_mb is not None
    assert audit.fused_attentions == audit.attentions == 3
    assert "MB moved" not in audit.describe()
    check_audit(audit, "fp16")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision 'fp64' is unknown; expected one of: fp32"):
        check_audit(Audit(0, 0, 0, 0.0, 0.0, {}, {}), "fp64")


def test_a_half_precision_engine_is_no_bf16_one(built: Built) -> None:
    engine, path = built()
    audit = audit_engine(engine, path)
    with pytest.raises(AuditError, match="precision bf16 was asked for, but only 0 of"):
        check_audit(audit, "bf16")


def test_attention_in_fp8_is_known_by_its_operands(segmenter: Writer, tmp_path: Path) -> None:
    path = quantise_attention(segmenter(size=128), tmp_path / "m.onnx")
    audit = audit_engine(build(path), path)
    check_audit(audit, "fp8")
    assert audit.attention_datatypes == {"FP8": 2, "Half": 1}
    assert "3 of 3 attentions fused (2 FP8 + 1 Half), GEMMs" in audit.describe()
    quantised = [f"encoder/{index}/attn/{end}" for index in (0, 1) for end in ("logits", "context")]
    assert {name: audit.products[name] for name in quantised} == dict.fromkeys(
        quantised, ("FP8", "FP8")
    )
    assert "head/0/cross/logits" not in audit.products


def test_attention_asked_in_fp8_and_fused_in_half_is_named(
    built: Built, segmenter: Writer, tmp_path: Path
) -> None:
    engine, _ = built(size=128)
    path = quantise_attention(segmenter(size=128), tmp_path / "m.onnx")
    audit = audit_kernels(engine.kernels, read_graph(path))
    with pytest.raises(AuditError, match=r"2 layers do not run in the datatype") as e:
        check_audit(audit, "fp8")
    assert "encoder/1/attn/softmax (asked FP8, got Half)" in str(e.value)


def test_attention_in_fp8_that_the_graph_keeps_in_half_is_named(
    segmenter: Writer, tmp_path: Path
) -> None:
    engine = build(quantise_attention(segmenter(size=128), tmp_path / "m.onnx"))
    with pytest.raises(AuditError, match=r"encoder/0/attn/softmax \(asked Half, got FP8\)"):
        check_audit(audit_kernels(engine.kernels, read_graph(segmenter(size=128))), "fp16")


def test_attention_quantised_in_part_is_named(segmenter: Writer, tmp_path: Path) -> None:
    path = quantise_attention(segmenter(size=128), tmp_path / "m.onnx", operands="qkv")
    audit = audit_engine(build(path), path)
    assert audit.unfused == ("encoder/0/attn/softmax", "encoder/1/attn/softmax")
    with pytest.raises(AuditError, match="2 of 3 attentions did not fuse in fp8: encoder/0/attn"):
        check_audit(audit, "fp8")
