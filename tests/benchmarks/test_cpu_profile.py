"""`benchmarks.cpu_profile`: all operations are found, parts and kinds add up, errors."""

import json
from pathlib import Path

import pytest

from benchmarks.cpu_profile import main
from benchmarks.operator_times import _find_node
from engines.roofline import count_flops
from export.build import main as build
from tests.benchmarks.small_artifacts import write_artifact


def test_an_operators_node_is_the_longest_that_begins_its_name() -> None:
    nodes = ["encoder/1/MatMul", "encoder/1", "encoder/1/MatMul_1"]
    assert _find_node("encoder/1/MatMul/MatMulAddFusion", nodes) == ("encoder/1/MatMul",)
    assert _find_node("encoder/1/MatMul_1", nodes) == ("encoder/1/MatMul_1",)
    assert _find_node("encoder/1/MatMul_12", nodes) == ("encoder/1",)
    assert _find_node("SkipLayerNormalization", nodes) == ()


def _profile(capsys: pytest.CaptureFixture[str], *options: str | Path) -> dict:
    capsys.readouterr()
    assert main([*map(str, options), "--calls", "2", "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_model_is_profiled_on_both_runtimes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "artifact"
    shared = ["--num-images", "1", "--out", str(artifact)]
    assert build(["--fp32", "--target", "ort", "openvino", *shared]) == 0
    gflop = sum(count_flops(artifact / "model.onnx").values()) / 1e9
    out = tmp_path / "profile.json"
    report = _profile(capsys, "--artifact", artifact, "--out", out, "--top", 5000)
    assert json.loads(out.read_text()) == report
    assert report["peak_gflops"]["fp32"] > 0
    assert [run["target"] for run in report["runs"]] == ["ort", "openvino"]
    for run in report["runs"]:
        rows, parts = run["slowest"], run["parts"]
        assert list(parts) == ["patch embed", "encoder", "head", "tail"]
        assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
        for groups in (parts, run["kinds"]):
            assert sum(group["operators"] for group in groups.values()) == len(rows)
            found = sum(group["ms"] for group in groups.values())
            assert found == pytest.approx(run["operators_ms"])
        assert run["products_gflops"] == pytest.approx(gflop / run["products_ms"] * 1e3)
        assert 0 < run["products_ms"] < run["operators_ms"]
    assert sum(part["gflop"] for part in report["runs"][0]["parts"].values()) == pytest.approx(
        gflop
    )
    assert main(["--artifact", str(artifact), "--target", "ort", "--calls", "1", "--top", "1"]) == 0
    text = capsys.readouterr().out
    assert "artifact on ort: " in text
    assert "artifact on openvino" not in text
    assert text.split("slowest operators\n")[1].count("\n") == 1


def test_nothing_to_profile(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact")
    with pytest.raises(ValueError, match="no artifact is built for openvino; give others with"):
        main(["--artifact", str(artifact), "--target", "openvino"])
