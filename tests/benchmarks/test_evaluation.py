"""`benchmarks.evaluation`: its report, on a small model and image."""

import json
from pathlib import Path

import pytest

from benchmarks.evaluation import main
from segvit.cli import run_main


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evaluation.json"
    options = ["--model", "vit_t_landcover", "--images", "1", "--memory-size", "256x300"]
    assert main([*options, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    overhead, memory = report["overhead"], report["memory"]
    assert 0 < overhead["model_seconds"] < overhead["seconds"]
    share = 1 - overhead["model_seconds"] / overhead["seconds"]
    assert overhead["overhead_share"] == pytest.approx(share)
    assert (memory["size"], memory["classes"]) == ("256x300", 7)
    assert 0.1 < memory["loaded_gb"] <= memory["sliding_gb"] < 3


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--images", "0"], "--images must be at least 1"),
        (["--memory-size", "large"], "expected HxW in pixels"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
