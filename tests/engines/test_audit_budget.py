from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.audit import Audit, AuditError
from engines.audit_budget import (
    BUDGETS_PATH,
    NO_BUDGET,
    Budget,
    check_budget,
    describe_build,
    find_architecture,
    read_budgets,
    write_budgets,
)
from engines.graph import Graph, read_graph
from engines.target import Target
from segvit.config import VARIANTS, SegViTConfig, find_variant

Writer = Callable[..., Path]
NAME = "vit_b, such as it is"
BUDGETS = {NAME: Budget(201, 1115.4)}
AUDIT = Audit(201, 29, 29, 1115.4, None, {}, {})


def describe(path: Path, config: SegViTConfig, folder: Path) -> Graph:
    """Return a small graph that says it is a model of this description in FP16."""
    model = onnx.load(path)
    values = {"model": "{}", "precision": json.dumps("fp16"), "config": config.to_json()}
    for key, value in values.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, folder / "m.onnx")
    return read_graph(folder / "m.onnx")


def test_an_engine_as_stored_is_said_to_be() -> None:
    assert check_budget(AUDIT, NAME, BUDGETS) == "within 5% of the stored 201 kernels, 1,115.4 MB"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": 251}, "25% above its stored budget .*expected 201 kernels.*got 251 kernels"),
        ({"kernels": 212}, "5% above its stored budget"),
        ({"traffic_mb": 1250.0}, "12% above its stored budget .*got 201 kernels, 1,250.0 MB"),
    ],
)
def test_more_kernels_or_traffic_are_an_error(change: dict[str, int], message: str) -> None:
    with pytest.raises(AuditError, match=message) as e:
        check_budget(replace(AUDIT, **change), NAME, BUDGETS)
    assert "benchmarks.audit_budget --update" in str(e.value)


def test_fewer_are_a_note() -> None:
    assert check_budget(replace(AUDIT, kernels=180), NAME, BUDGETS).startswith("10% below")


@pytest.mark.parametrize("name", [None, "another"])
def test_what_is_not_stored_is_not_compared_and_said_so(name: str | None) -> None:
    assert check_budget(replace(AUDIT, kernels=999), name, BUDGETS) == NO_BUDGET


def test_open_sizes_compare_kernels_alone() -> None:
    assert "within" in check_budget(replace(AUDIT, traffic_mb=None), NAME, BUDGETS)


def test_budgets_read_back_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "budgets.json"
    budgets = {"b": Budget(2, None), "a": Budget(1, 0.5)}
    write_budgets(budgets, path)
    assert read_budgets(path) == budgets
    assert [line[:3] for line in path.read_text().splitlines()] == ["{", '"a"', '"b"', "}"]


def test_the_stored_budgets_are_written_as_the_command_writes_them(tmp_path: Path) -> None:
    write_budgets(read_budgets(), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == BUDGETS_PATH.read_bytes()


def test_a_models_own_names_and_licence_do_not_part_it_from_its_architecture() -> None:
    for name, config in VARIANTS.items():  # no two of them share an architecture
        classes = tuple(f"c{index}" for index in range(config.num_classes))
        mine = replace(config, name="mine", class_names=classes, mean=(1.0, 2.0, 3.0))
        assert find_architecture(mine) == name
    config = find_variant("vit_b_ade20k")
    other = replace(config, num_classes=20, class_names=(), palette=())
    assert find_architecture(other) is None


def test_all_that_decides_the_kernels_is_in_the_name(segmenter: Writer, tmp_path: Path) -> None:
    config = find_variant("vit_t_landcover")
    plain, sums = (
        describe(segmenter(float_sums=asked), config, tmp_path) for asked in (False, True)
    )
    name = describe_build(plain, Target.TRT_RTX, "1.7.1.23", ("SM89", "SM120"))
    assert name == (
        "vit_t_landcover, 1x64x64, labels, fp16, attention Half, trt-rtx 1.7, SM80"
    )  # fmt: skip
    turing = describe_build(sums, Target.TRT_RTX, "1.7.1.23", ("SM75",))
    assert turing == (
        "vit_t_landcover, 1x64x64, labels, fp16, attention Half summed in FP32, trt-rtx 1.7, SM75"
    )
    assert describe_build(read_graph(segmenter()), Target.TRT_RTX, "1.7", ("SM89",)) is None
