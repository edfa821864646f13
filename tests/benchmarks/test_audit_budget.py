from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks import audit_budget
from engines.audit_budget import Budget, read_budgets, write_budgets
from segvit.config import VARIANTS

pytest.importorskip("tensorrt_rtx", reason="the table is of engines that TensorRT-RTX builds")
pytestmark = pytest.mark.trt_rtx
OPTIONS = ["--models", "vit_t_landcover", "--precisions", "fp16"]


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_budget, "_trace", cache(audit_budget._trace))
        yield


def test_the_shipped_model_is_within_its_stored_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit_budget.main(OPTIONS) == 0
    said = capsys.readouterr().out
    assert "127 kernels, 17 of 17 attentions fused" in said
    assert "FP32 in 17 of 17, read from the plan; within 5% of the stored 127 kernels" in said


def test_an_update_stores_and_growth_is_an_alarm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "budgets.json"
    options = [*OPTIONS, "--budgets", str(path)]
    write_budgets({}, path)
    assert audit_budget.main([*options, "--update"]) == 0
    ((name, budget),) = read_budgets(path).items()
    assert name.startswith("vit_t_landcover, 1x256x256, labels, fp16, attention Half")
    capsys.readouterr()
    assert audit_budget.main([*options, "--missing"]) == 0
    assert capsys.readouterr().out == ""
    write_budgets({name: Budget(budget.kernels - 50, budget.traffic_mb)}, path)
    assert audit_budget.main(options) == 1
    assert "ALARM: the engine is 65% above its stored budget" in capsys.readouterr().out


def test_published_and_shipped_variants_have_budgets() -> None:
    """In five precisions."""
    names = [name for name in VARIANTS if not name.startswith("dino")]
    assert len(names) == 9
    for name in names:
        stored = [budget.split(", ") for budget in read_budgets() if budget.startswith(f"{name},")]
        precisions = {parts[3].split(" ")[0] for parts in stored if parts[-1] == "SM80"}
        assert precisions == {"fp32", "fp16", "bf16", "int8", "fp8"}, name
