"""The table of combinations known to be wrong: its rows, and how versions and GPUs match."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from engines.known_wrong import (
    KNOWN_WRONG,
    Attentions,
    Combination,
    KnownWrong,
    KnownWrongError,
    check_known_wrong,
    find_known_wrong,
    read_attentions,
)
from engines.target import Target

Writer = Callable[..., Path]
TRT, RTX = Target.TRT, Target.TRT_RTX
VIT = Attentions(frozenset({64}), tokens=1024)
DINOV3 = Attentions(frozenset({64}), tokens=1029, is_rotary=True)


def combine(
    version: str = "11.4.0.106",
    capability: str = "SM89",
    precision: str = "fp16",
    target: Target = TRT,
    batch: int = 1,
    attentions: Attentions = VIT,
) -> Combination:
    return Combination(target, version, (capability,), precision, batch, attentions)


def row(**changes: object) -> KnownWrong:
    values: dict[str, object] = {
        "source": "report#1", "what": "wrong", "instead": "use another", "target": TRT,
        "since": "10.4", "before": "10.16.1", "is_certain": True,
    }  # fmt: skip
    return KnownWrong(**(values | changes))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_fused_attention_on_consumer_blackwell_is_an_error(precision: str) -> None:
    wanted = combine("10.16.1.11", "SM120", precision)
    with pytest.raises(
        KnownWrongError,
        match=rf"trt 10\.16\.1\.11 for SM120 in {precision} is known to be wrong: "
        r"NVIDIA/TensorRT#4837: .*; instead, build with --fp32, .*\(--allow-known-wrong",
    ):
        check_known_wrong(wanted)
    (allowed,) = check_known_wrong(wanted, allowed=True)
    assert allowed.startswith("known to be wrong, built as allowed: NVIDIA/TensorRT#4837: ")


@pytest.mark.parametrize("version", ["10.8.0.43", "10.17", "11.4.1"])
def test_its_neighbours_are_a_warning(version: str) -> None:
    (warning,) = check_known_wrong(combine(version, "SM120"))
    assert warning.startswith("may be wrong: NVIDIA/TensorRT#4837: ")
    assert "--self-test" in warning


def test_tensorrt_rtx_on_that_gpu_is_a_warning_that_says_what_is_known() -> None:
    (warning,) = check_known_wrong(combine("1.7.1.57", "SM120", target=RTX))
    assert "Reported for TensorRT 10.16.1, not for TensorRT-RTX" in warning
    assert "--self-test" in warning


@pytest.mark.parametrize(
    "other",
    [
        combine("10.16.1", "SM89"),
        combine("10.16.1", "SM120", "fp32"),
        combine("10.16.1", "SM120", attentions=Attentions(is_unfused=True)),
        combine("1.7.1", "SM89", target=RTX),
        combine("1.7.1", "SM120", "fp32", target=RTX),
    ],
    ids=lambda c: f"{c.target}-{c.version}-{c.capabilities[0]}-{c.precision}",
)
def test_what_nobody_reported_is_silent(other: Combination) -> None:
    assert check_known_wrong(other) == ()


@pytest.mark.parametrize(
    ("version", "capability", "precision", "source"),
    [
        ("10.3.0.26", "SM87", "fp16", "NVIDIA/TensorRT#4723 and #4742"),
        ("10.4.0", "SM86", "fp16", "NVIDIA/TensorRT#4723 and #4742"),
        ("10.4.0", "SM86", "fp32", "NVIDIA/TensorRT#4742"),
    ],
)
def test_rotary_positions_in_old_versions_are_an_error(
    version: str, capability: str, precision: str, source: str
) -> None:
    wanted = combine(version, capability, precision, attentions=DINOV3)
    with pytest.raises(KnownWrongError, match=f"{source}: .*; instead, use TensorRT 10.6 or later"):
        check_known_wrong(wanted)
    assert check_known_wrong(combine(version, capability, precision)) == ()


def test_one_version_between_a_bad_and_a_good_one_is_a_warning() -> None:
    (warning,) = check_known_wrong(combine("10.5.0", attentions=DINOV3))
    assert "nobody reported 10.5" in warning
    assert check_known_wrong(combine("10.6.0", attentions=DINOV3)) == ()


def test_batches_are_a_warning_where_rows_were_seen_to_differ() -> None:
    said = [line.split(": ")[1] for line in check_known_wrong(combine("11.1.0.106", batch=8))]
    assert said == ["NVIDIA/TensorRT#4853", "NVIDIA/TensorRT#4813"]
    assert check_known_wrong(combine("11.1.0.106")) == ()
    (warning,) = check_known_wrong(combine("10.7.0.23", batch=2))
    assert "NVIDIA/TensorRT#4796" in warning


def test_more_keys_than_fp16_can_count_are_a_warning() -> None:
    many = Attentions(frozenset({64}), tokens=65_536)
    (warning,) = check_known_wrong(combine("11.4.0", attentions=many))
    assert "tier4/autoware-ml#95" in warning
    assert check_known_wrong(combine("11.4.0", precision="bf16", attentions=many)) == ()


@pytest.mark.parametrize(
    ("version", "matches"),
    [
        ("10.3.9.99", False),
        ("10.4", True),
        ("10.4.0.26", True),
        ("10.10.0", True),  # not the text: "10.10" < "10.4"
        ("10.16.0.72", True),
        ("10.16.1", False),
        ("10.16.1.11", False),
        ("9.99", False),
        ("11.0", False),
        ("10.15.1.post1", True),
    ],
)
def test_a_range_of_versions_has_its_first_and_not_its_last(version: str, matches: bool) -> None:
    assert bool(find_known_wrong(combine(version), [row()])) == matches
    assert bool(find_known_wrong(combine(version), [row(before=None)])) == (
        matches or version.startswith(("10.16.1", "11"))
    )


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        ({}, True),
        ({"target": RTX}, False),
        ({"capabilities": ("SM89",)}, True),
        ({"capabilities": ("SM86", "SM120")}, False),
        ({"precisions": ("bf16", "fp16")}, True),
        ({"precisions": ("fp32",)}, False),
        ({"head_sizes": (64,)}, True),
        ({"head_sizes": (32, 80)}, False),
        ({"min_tokens": 1024}, True),
        ({"min_tokens": 1025}, False),
        ({"min_batch": 2}, False),
        ({"rotary": True}, False),
        ({"fused": True}, True),
    ],
)
def test_every_condition_of_a_row_counts(changes: dict[str, object], matches: bool) -> None:
    assert bool(find_known_wrong(combine("10.7"), [row(**changes)])) == matches


def test_one_of_several_capabilities_is_enough() -> None:
    wanted = Combination(TRT, "10.7", ("SM86", "SM120"), "fp16")
    assert find_known_wrong(wanted, [row(capabilities=("SM120",))])


def test_head_sizes_that_a_graph_does_not_tell_match() -> None:
    wanted = combine("10.7", attentions=Attentions())
    assert find_known_wrong(wanted, [row(head_sizes=(64,))])


def test_a_version_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="version 'main': expected numbers such as"):
        find_known_wrong(combine("main"))


def test_the_table_is_whole() -> None:
    for entry in KNOWN_WRONG:
        assert entry.what
        assert entry.instead
        assert "#" in entry.source


def test_a_graph_tells_its_head_size_and_keys(segmenter: Writer, tmp_path: Path) -> None:
    assert read_attentions(segmenter()) == Attentions(frozenset({32}), tokens=16)
    model = onnx.load(segmenter())
    metadata = {"config": json.dumps({"position": "rotary"}), "attention": json.dumps("unfused")}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    got = read_attentions(tmp_path / "model.onnx")
    assert (got.is_rotary, got.is_unfused) == (True, True)
