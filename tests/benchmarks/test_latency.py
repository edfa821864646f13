"""`benchmarks.latency` on small artifacts: what it compares and what it refuses."""

import json
from pathlib import Path

import pytest

from benchmarks.latency import main
from export.build import main as build
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from tests.tiny_models import make_config, make_model

BUILD = ("--target", "ort", "--num-images", "2", "--json")
QUICK = ("--rounds", "2", "--warm-up", "0", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts of one model and one of scores."""
    folder = tmp_path_factory.mktemp("latency")
    save_checkpoint(make_model(make_config()), folder / "model.safetensors")
    for name, options in (("labels", ()), ("again", ()), ("scores", ("--output", "scores"))):
        out = ("--checkpoint", str(folder / "model.safetensors"), "--out", str(folder / name))
        assert build([*out, *options, *BUILD]) == 0
    return folder


def test_report(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    artifacts = ("--artifact", str(folder / "labels"), str(folder / "again"))
    weights = ("--checkpoint", str(folder / "model.safetensors"))
    assert main([*artifacts, *weights, *QUICK, "--json", "--out", str(tmp_path / "l.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "l.json").read_text())
    assert set(report["latency"]) == {"PyTorch eager", "ort fp32", "ort fp32 (again)"}
    assert report["ratio_to_eager"]["PyTorch eager"] == 1.0
    assert report["labels_equal_to_golden"]["ort fp32"] > 0.999
    assert report["latency"]["ort fp32"]["calls"] == 2


def test_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--artifact", str(folder / "labels"), "--no-eager", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "p50 ms" in printed
    assert "ort fp32" in printed
    assert "PyTorch" not in printed


def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_checkpoint(make_model(make_config(), seed=9), tmp_path / "other.safetensors")
    labels = ("--artifact", str(folder / "labels"))
    for arguments, code, message in (
        (("--artifact", str(tmp_path)), 1, "manifest"),
        (("--artifact", str(folder / "scores")), 1, "gives scores; build it with --output labels"),
        (labels, 1, "was built from a checkpoint: give it with --checkpoint"),
        ((*labels, "--checkpoint", str(tmp_path / "other.safetensors")), 1, "is not the one"),
        ((*labels, "--rounds", "0"), 2, "must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [*QUICK, *arguments])
        assert stopped.value.code == code
        assert message in capsys.readouterr().err
