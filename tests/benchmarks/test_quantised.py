"""`benchmarks.quantised`: builds audited side by side, and what a failing command says."""

import json
from pathlib import Path

import pytest

from benchmarks.quantised import main, measure_build


@pytest.mark.slow
@pytest.mark.trt_rtx
def test_builds_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "quantised.json"
    options = ["--model", "--random-model", "vit_t_landcover", "--precision", "int8",
               "--random-calibration", "2", "--out", str(path)]  # fmt: skip
    assert main(options) == 0
    half, int8 = json.loads(path.read_text())["builds"]
    assert (half["precision"], int8["precision"]) == ("fp16", "int8")
    assert half["gemm_datatypes"] == {"Half": 69}
    assert int8["gemm_datatypes"] == {"Int8": 19, "Half": 50}
    assert int8["fused_attentions"] == int8["attentions"] == 17
    # In a model this small the code of seven more kernels outweighs what the weights save.
    assert min(int8["engine_mb"], half["engine_mb"]) > 5
    assert int8["traffic_mb"] < half["traffic_mb"]
    assert "19 Int8 + 50 Half" in capsys.readouterr().out


def test_a_failing_command_is_named() -> None:
    message = "python -m export.build --model=none --random-weights .* failed: .*invalid choice"
    with pytest.raises(RuntimeError, match=message):
        measure_build("none", "fp16", 2, "SM89")
