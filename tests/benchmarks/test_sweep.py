"""`benchmarks.sweep`: rows that fail stop no other, and a resumed sweep builds what is missing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import sweep
from benchmarks.report_sweep import SWEEP_SCHEMA
from benchmarks.result_files import write_result
from benchmarks.sweep import Case, main, measure_artifact
from engines.kernels import Kernel, KernelTensor, layers_document
from export.manifest import AuditSummary, BuiltTarget, MissingTarget, hash_file
from segvit.cli import run_main
from tests.engines.conftest import describe, write_segmenter

QUICK = ("--num-images", "2", "--num-calibration-images", "2", "--rounds", "2", "--target", "ort")


def test_a_failed_row_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first build is real and fails; the row behind it is made up."""
    real, made = sweep.make_row, []

    def make_row(case: Case, arguments: Any) -> dict[str, Any]:
        made.append(case)
        return real(case, arguments) if len(made) == 1 else built_row(case)

    monkeypatch.setattr(sweep, "make_row", make_row)
    out = tmp_path / "sweep.json"
    options = ["--models", "vit_b_ade20k", "--precisions", "fp32", "fp16", *QUICK]
    options += ["--out", str(out)]
    assert main(options) == 1
    report = json.loads(out.read_text())
    failed, built = report["rows"]
    assert failed["error"].startswith("the build of 'vit_b_ade20k' failed: error: ")
    assert "ships without weights" in failed["error"]
    assert built["error"] is None
    printed = capsys.readouterr().out
    assert "vit_b_ade20k fp32 512x512" in printed
    assert "failed: the build of 'vit_b_ade20k'" in printed
    assert "1.5e-03" in printed
    assert main([*options, "--resume", "--json"]) == 0
    assert [case.precision for case in made] == ["fp32", "fp16", "fp32"]
    assert {(case.model, case.size) for case in made} == {("vit_b_ade20k", "512x512")}
    resumed = json.loads(capsys.readouterr().out)
    assert [(row["precision"], row["error"]) for row in resumed["rows"]] == [
        ("fp16", None), ("fp32", None),
    ]  # fmt: skip


def built_row(case: Case) -> dict[str, Any]:
    return {
        **case._asdict(), "error": None, "build_seconds": 10.0,
        "onnx_mb": 3.0, "engines": [], "latency": {"ort": {"p50_ms": 8.0}},
        "parity": {"pixel_agreement": None, "details": {"score_rms": 1.5e-3}},
    }  # fmt: skip


def test_what_an_artifact_holds(tmp_path: Path) -> None:
    write_segmenter(tmp_path / "model.onnx", "fp32")
    onnx.shape_inference.infer_shapes_path(tmp_path / "model.onnx", tmp_path / "model.onnx")
    moved = KernelTensor("t", (1000, 1000), (1000, 1), "Half")
    kernel = Kernel("move", "kgen", (moved,), (), (moved,), "", ("encoder/0/norm1",))
    (tmp_path / "layers.json").write_text(json.dumps(layers_document([kernel], ["image"])))
    (tmp_path / "engine").write_bytes(b"0" * 20_000)  # never loaded: nothing here runs it
    images = np.zeros((2, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "golden.npz", images=images, labels=np.zeros((2, 64, 64), np.int32))
    audit = AuditSummary(1, 0, 0, 4.0, 0.0, {})
    names = ("model.onnx", "layers.json", "engine", "golden.npz")
    replace(
        describe(),
        files={name: hash_file(tmp_path / name) for name in names},
        targets=(
            BuiltTarget("trt-rtx", "0", ("SM89",), "engine", audit, "layers.json", 3.5),
            BuiltTarget("ort", onnxruntime.__version__, (), "model.onnx"),
        ),
        not_built=(MissingTarget("trt", "not installed"),),
    ).write(tmp_path)
    row = measure_artifact(tmp_path, ["L4", "T4"], 2, 1)
    (engine,) = row["engines"]
    assert (engine["kernels"], engine["traffic_mb"], engine["build_seconds"]) == (1, 4.0, 3.5)
    assert engine["engine_mb"] == 0.02
    # 4 MB at 300 and 320 GB/s, and a launch of 1.5 microseconds.
    assert engine["estimated_ms"] == {
        "L4": pytest.approx(4 / 300 + 0.0015, abs=1e-4),
        "T4": pytest.approx(4 / 320 + 0.0015, abs=1e-4),
    }
    assert row["latency"]["ort"]["calls"] == 2
    assert "trt-rtx" in row["not_run"]
    assert row["not_built"] == {"trt": "not installed"}
    json.dumps(row, allow_nan=False)


def test_each_size_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "make_row", lambda case, _: built_row(case))
    out = tmp_path / "sweep.json"
    options = ["--models", "vit_t_landcover", "--precisions", "fp32", "fp16", "--out", str(out)]
    assert main([*options, "--sizes", "256", "256x512"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["precision"], row["size"]) for row in rows] == [
        ("fp32", "256x256"), ("fp16", "256x256"), ("fp32", "256x512"), ("fp16", "256x512"),
    ]  # fmt: skip
    case = Case("vit_t_landcover", "fp16", "256x512")
    arguments = sweep._parse_arguments([])
    assert "--size=256x512" in sweep._list_options(case, arguments)
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.trt_rtx
def test_a_row_of_everything(tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    options = ["--models", "vit_t_landcover", "--precisions", "fp16", *QUICK, "trt-rtx",
               "--gpu", "L4", "RTX-4090", "--out", str(out)]  # fmt: skip
    assert main(options) == 0
    (row,) = json.loads(out.read_text())["rows"]
    (engine,) = row["engines"]
    assert (engine["target"], engine["gemm_datatypes"]) == ("trt-rtx", {"Half": 69})
    assert engine["fused_attentions"] == engine["attentions"] == 17
    assert 0 < engine["estimated_ms"]["RTX-4090"] < engine["estimated_ms"]["L4"]
    assert row["build_seconds"] > engine["build_seconds"] > 0
    assert row["onnx_mb"] == pytest.approx(6, abs=0.2)  # 2.96 million weights of two bytes
    assert row["parity"]["pixel_agreement"] > 0.999
    assert row["latency"]["ort"]["calls"] == 2
    assert set(row["latency"]) | set(row["not_run"]) == {"ort", "trt-rtx"}


def test_resume_refuses_another_setup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep.json"
    write_result(out, {"schema": SWEEP_SCHEMA, "setup": {"target": ["ort"]}, "rows": []})
    (tmp_path / "no.json").write_text("[]")
    for path, code, message in (
        (out, 1, "is of another compute-capability: expected SM89, got None; give the same"),
        (tmp_path / "no.json", 1, "holds no sweep to go on with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [*QUICK, "--resume", "--out", str(path)])
        assert stopped.value.code == code
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run_main(main, ["--rounds", "0"])
    assert stopped.value.code == 2


def test_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no artifact folder"):
        measure_artifact(tmp_path, ["L4"], 1, 1)
