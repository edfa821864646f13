"""Faults planted in real engines or in their layer lists: the audit names every one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.audit import AuditError, audit_engine, audit_kernels, audit_layers, check_audit
from engines.graph import Graph, read_graph
from engines.kernels import Kernel, KernelTensor, layers_document
from engines.target import Target
from engines.trt_builder import BuiltEngine, build_engine

pytest.importorskip("tensorrt_rtx", reason="the audit reads engines that TensorRT-RTX builds")
pytestmark = pytest.mark.trt_rtx
Writer = Callable[..., Path]
Kernels = tuple[Kernel, ...]


def build(path: Path, capability: str = "SM89") -> BuiltEngine:
    return build_engine(path, Target.TRT_RTX, (capability,), progress=False)


@pytest.fixture(scope="module")
def kernels(segmenter: Writer) -> Kernels:
    return build(segmenter()).kernels


@pytest.fixture
def graph(segmenter: Writer) -> Graph:
    return read_graph(segmenter())


def to_float(tensors: tuple[KernelTensor, ...]) -> tuple[KernelTensor, ...]:
    return tuple(replace(tensor, datatype="Float") for tensor in tensors)


def edit(kernels: Kernels, picks: Callable[[Kernel], bool], **change: Any) -> Kernels:
    """Return the kernels with fields of those picked changed, by functions of the field."""
    return tuple(
        replace(k, **{name: do(getattr(k, name)) for name, do in change.items()}) if picks(k) else k
        for k in kernels
    )


def is_gemm(kernel: Kernel) -> bool:
    return kernel.launches and kernel.is_product


def check(kernels: Kernels, graph: Graph, **allowed: bool) -> None:
    check_audit(audit_kernels(kernels, graph), "fp16", **allowed)


def test_an_untouched_engine_raises_no_alarm(kernels: Kernels, graph: Graph) -> None:
    check(kernels, graph)
    assert audit_kernels(kernels, graph).unaudited == ()


def test_an_operator_between_softmax_and_values_hides_no_attention(segmenter: Writer) -> None:
    path = segmenter(between="Relu")
    audit = audit_engine(build(path), path)
    assert (audit.attentions, audit.fused_attentions) == (3, 0)
    with pytest.raises(AuditError, match="3 of 3 attentions did not fuse in fp16: encoder/0/attn"):
        check_audit(audit, "fp16")


def test_activations_in_single_precision_are_seen_under_half_weights(
    kernels: Kernels, graph: Graph
) -> None:
    changed = edit(kernels, is_gemm, inputs=to_float)
    assert {k.product_datatype for k in changed if is_gemm(k) and k.constants} == {"Half", "Float"}
    with pytest.raises(AuditError, match=r"encoder/0/fc1 \(asked Half, got Float operands\)"):
        check(edit(kernels, lambda k: "encoder/0/fc1" in k.nodes, inputs=to_float), graph)
    with pytest.raises(AuditError, match="do not run in the datatype"):
        check(changed, graph)


def test_one_operand_in_single_precision_is_enough(kernels: Kernels, graph: Graph) -> None:
    """The residual that a kernel adds is in Half too: the graph has no Float there."""
    residual = next(k for k in kernels if is_gemm(k) and len(k.inputs) == 2 and k.constants)
    changed = edit(kernels, lambda k: k is residual, inputs=lambda t: (*to_float(t[:1]), t[1]))
    with pytest.raises(AuditError, match=r"1 layers do not run .*got Float operands"):
        check(changed, graph)


@pytest.mark.parametrize("field", ["inputs", "q", "v"])
def test_attentions_in_single_precision_are_named(
    kernels: Kernels, graph: Graph, field: str
) -> None:
    change = {
        "inputs": to_float,
        "q": lambda t: (*to_float(t[:1]), *t[1:]),
        "v": lambda t: (*t[:2], *to_float(t[2:])),
    }[field]
    changed = edit(kernels, lambda k: k.is_attention, inputs=change)
    with pytest.raises(AuditError, match=r"3 layers .*encoder/0/attn/softmax \(asked Half, got Fl"):
        check(changed, graph)


def test_attentions_built_in_single_precision_are_named(segmenter: Writer, graph: Graph) -> None:
    engine = build(segmenter(precision="fp32"))
    with pytest.raises(AuditError, match=r"encoder/0/attn/logits \(asked Half, got Float\)"):
        check_audit(audit_kernels(engine.kernels, graph), "fp16", allow_unfused=True)


@pytest.mark.parametrize("field", ["inputs", "constants"])
def test_a_gemm_in_single_precision_in_an_edited_list_is_named(
    kernels: Kernels, graph: Graph, field: str
) -> None:
    changed = edit(kernels, lambda k: "encoder/1/attn/proj" in k.nodes, **{field: to_float})
    with pytest.raises(AuditError, match=r"1 layers .* encoder/1/attn/proj \(asked Half, got Floa"):
        check(changed, graph)


def test_gemms_that_are_missing_from_the_list_are_named(kernels: Kernels, graph: Graph) -> None:
    left = tuple(
        k for k in kernels
        if not (is_gemm(k) and any(name.startswith("encoder/1/") for name in k.nodes))
    )  # fmt: skip
    with pytest.raises(
        AuditError, match="6 of 27 GEMMs of the graph are the work of no kernel"
    ) as e:
        check(left, graph)
    assert "encoder/1/" in str(e.value)
    check(left, graph, allow_unaudited=True)


def test_gemms_without_node_names_are_missed(kernels: Kernels, graph: Graph) -> None:
    changed = edit(kernels, is_gemm, nodes=lambda names: ())
    with pytest.raises(AuditError, match="21 of 27 GEMMs of the graph are the work of no kernel"):
        check(changed, graph)


def test_a_gemm_that_is_done_twice_is_named(kernels: Kernels, graph: Graph) -> None:
    gemm = next(kernel for kernel in kernels if is_gemm(kernel))
    with pytest.raises(AuditError, match="1 GEMMs of the graph are the work of several kernels"):
        check((*kernels, gemm), graph)


@pytest.mark.parametrize("named", [True, False])
def test_fifty_extra_kernels_are_noticed_without_a_budget(
    kernels: Kernels, graph: Graph, named: bool
) -> None:
    one = next(k for k in kernels if k.launches and not k.is_product and not k.is_attention)
    extra = one if named else replace(one, name="copy", nodes=())
    with pytest.raises(AuditError, match=r"5\d of \d+ kernels do no work of the graph"):
        check((*kernels, *[extra] * 50), graph)


def test_a_region_that_the_inspector_does_not_open_is_said_to_be_one(graph: Graph) -> None:
    region = Kernel("{ForeignNode[encoder/0/q...tail/mix]}", "Myelin", (), (), (), "", ())
    with pytest.raises(AuditError, match="inspector does not open 1 compiled regions") as e:
        check((region,), graph)
    assert "--allow-unaudited" in str(e.value)
    audit = audit_kernels((region,), graph)
    check_audit(audit, "fp16", allow_unaudited=True)
    assert "attentions not known" in audit.describe()
    assert audit.summary().unaudited == audit.unaudited != ()


@pytest.mark.parametrize("capability", ["SM75", "SM86", "SM89", "SM120"])
def test_sums_in_single_precision_are_read_from_the_plan(
    segmenter: Writer, capability: str
) -> None:
    path = segmenter(float_sums=True)
    audit = audit_engine(build(path, capability), path)
    check_audit(audit, "fp16")
    assert set(audit.gemm_datatypes) == {"Half"}
    assert (audit.asked_float_sums, audit.float_sums) == (3, 3)
    assert "attention sums: FP32 in 3 of 3, read from the plan" in audit.describe()


def test_sums_in_half_are_refused_where_the_graph_asks_for_more(segmenter: Writer) -> None:
    engine = build(segmenter())
    audit = audit_kernels(engine.kernels, read_graph(segmenter(float_sums=True)), None, engine.plan)
    assert (audit.asked_float_sums, audit.float_sums) == (3, 0)
    with pytest.raises(AuditError, match=r"only 0 of 3 have them.*--attention fp16-sums"):
        check_audit(audit, "fp16")
    check_audit(audit_engine(engine, segmenter()), "fp16")


def test_sums_of_several_generations_and_of_bfloat16_are_read(segmenter: Writer) -> None:
    path = segmenter(precision="bf16")
    engine = build_engine(path, Target.TRT_RTX, ("SM80", "SM89", "SM120"), progress=False)
    assert audit_engine(engine, path).float_sums == 3
    assert "attention sums: not known" in audit_kernels(
        engine.kernels, read_graph(path), None, b"a plan that does not tell"
    ).describe()  # fmt: skip


def test_one_sum_in_half_precision_is_enough_where_the_plan_tells_of_some(
    segmenter: Writer,
) -> None:
    engine, path = build(segmenter()), segmenter(float_sums=True)
    first, second, third = re.findall(rb"Kernel_traits_v2[^>]*?_traits,[^>]*?_traits", engine.plan)
    audit = audit_kernels(engine.kernels, read_graph(path), None, first + second)
    assert (len({first, second, third}), audit.float_sums) == (1, 1)
    with pytest.raises(AuditError, match="sums in FP32 were asked of 3 fused attentions, but only"):
        check_audit(audit, "fp16")


def test_an_audit_is_made_of_an_engines_files_alone(segmenter: Writer) -> None:
    path = segmenter()
    engine = build(path)
    document = layers_document(engine.kernels, engine.bindings, engine.activation_bytes)
    assert audit_layers(document, read_graph(path), engine.plan) == audit_engine(engine, path)
    with pytest.raises(ValueError, match="expected a list 'Layers', got none"):
        audit_layers({}, read_graph(path))


def test_an_attention_that_does_not_fuse_with_wide_sums_is_told_of_narrow_ones(
    segmenter: Writer,
) -> None:
    path = segmenter(float_sums=True, between="Relu")
    with pytest.raises(AuditError, match=r"3 of 3 attentions did not fuse.*--attention fp16-sums"):
        check_audit(audit_engine(build(path), path), "fp16")
    plain = segmenter(between="Relu")
    with pytest.raises(AuditError) as e:
        check_audit(audit_engine(build(plain), plain), "fp16")
    assert "fp16-sums" not in str(e.value)
