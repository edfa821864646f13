"""`benchmarks.build_cost` runs whole builds and reports what they took."""

import json
from pathlib import Path

import pytest

from benchmarks.build_cost import main
from segvit.cli import run_main


@pytest.mark.trt_rtx
def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a quantized build beside another target."""
    out = tmp_path / "builds.json"
    options = ["--model", "vit_t_landcover", "--int8", "--num-calibration-images", "2"]
    options += ["--target", "ort", "trt-rtx", "--out", str(out), "--json"]
    assert main(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    (build,) = report["builds"]
    assert {"--int8", "--num-calibration-images=2", "--target=ort"} < set(build["options"])
    assert build["fused_attentions"] == build["attentions"] > 0
    assert build["kernels"] == sum(kernels for kernels, _ in build["parts"].values())
    assert build["gemm_datatypes"]["Int8"] > 0
    assert build["engine_mb"] > 0
    assert 0 < build["engine_seconds"] < build["seconds"]
    assert 0.1 < build["peak_gib"] < 8
    assert 0 < build["score_rms"] < 2e-2


def test_a_failed_build_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, ["--model", "vit_t_landcover", "--compute-capability", "SMX", "--json"])
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: the build of 'vit_t_landcover' failed: error: ")
    assert "SMX" in printed.err
    assert printed.out == ""
