from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
