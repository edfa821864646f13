"""`benchmarks.latency` on small artifacts: what it compares and what it refuses."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import latency
from benchmarks.latency import main
from benchmarks.peers import list_candidates
from export.build import main as build
from export.manifest import Manifest
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from tests.tiny_models import make_config, make_model

BUILD = ("--target", "ort", "openvino", "--num-images", "2", "--json",
         "--allow-foreign-images")  # fmt: skip
QUICK = ("--rounds", "2", "--warm-up", "0", "--threads", "1")
LIGHT = (*QUICK, "--target", "ort", "--no-memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, a copy, and two that say of themselves that they are something else."""
    folder = tmp_path_factory.mktemp("latency")
    save_checkpoint(make_model(make_config()), folder / "model.safetensors")
    checkpoint = ("--checkpoint", str(folder / "model.safetensors"))
    assert build([*checkpoint, "--out", str(folder / "labels"), *BUILD]) == 0
    manifest = Manifest.read(folder / "labels")
    scores = replace(manifest.outputs[0], name="scores", dtype="float32")
    for name, described in (
        ("again", manifest),
        ("scores", replace(manifest, outputs=(scores,))),
        ("other", replace(manifest, model=replace(manifest.model, name="tiny_single"))),
    ):
        shutil.copytree(folder / "labels", folder / name)
        described.write(folder / name)
    return folder


def _weights(folder: Path) -> tuple[str, str]:
    return "--checkpoint", str(folder / "model.safetensors")


def test_report(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    artifacts = ("--artifact", str(folder / "labels"), str(folder / "again"))
    out = ("--json", "--out", str(tmp_path / "l.json"))
    assert main([*artifacts, *_weights(folder), *LIGHT, *out]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "l.json").read_text())
    assert list(report["latency"]) == ["PyTorch eager", "ort fp32", "ort fp32 (again)"]
    assert report["ratio_to_eager"]["PyTorch eager"] == 1.0
    found = report["ratios"]["ort fp32"]["PyTorch eager"]
    assert report["ratio_to_eager"]["ort fp32"] == found["ratio"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert report["labels_equal_to_golden"]["ort fp32"] > 0.999
    assert report["labels_equal"]["ort fp32 (again)"]["ort fp32"] == 1
    assert report["latency"]["ort fp32"]["calls"] == len(report["samples_ms"]["ort fp32"]) == 2
    assert report["command"].startswith("python -m benchmarks.latency --artifact ")
    assert report["subject"] == {"model": "tiny_cascade", "size": [64, 64]}
    assert "no candidate runs on a GPU" in report["not_measured"]
    assert any(text.startswith("2 rounds are too few") for text in report["warnings"])
    assert report["schema"] == 1


def test_all_peers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--vs", "eager,ort,openvino,naive-onnx", "--target", "openvino", "--pin", "--json")
    more = ("--end-to-end", "--duration", "0.01", "--warm-up", "0", "--threads", "1", "--no-memory")
    before = os.sched_getaffinity(0)
    artifact = ("--artifact", str(folder / "labels"))
    assert main([*artifact, *_weights(folder), *options, *more]) == 0
    report = json.loads(capsys.readouterr().out)
    names = ["PyTorch eager", "plain export on ort", "openvino fp32", "ort fp32"]
    assert list(report["latency"])[:4] == names
    for name in names:
        assert report["labels_equal_to_golden"][name] > 0.999
        stages = report["end_to_end"][name]["stages_p50_ms"]
        assert list(stages) == ["decode", "resize", "infer", "resize labels", "write"]
        assert sum(stages.values()) < 2 * report["end_to_end"][name]["whole"]["p50_ms"]
    assert report["rounds"] >= 10
    assert len(report["pinned_to"]) == 1
    assert os.sched_getaffinity(0) == before


def test_peak_memory_and_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--vs", "none", "--target", "ort", "--streams", "2")
    assert main(["--artifact", str(folder / "labels"), *QUICK, *options]) == 0
    header, columns, row, rates, *_ = capsys.readouterr().out.splitlines()
    assert header == "batch 1, 2 interleaved rounds; ratios to ort fp32"
    assert "p50 ms" in columns
    assert row.startswith("ort fp32")
    assert 50 < int(row.split()[-1]) < 250  # MiB: no torch in the process of an artifact
    assert rates.startswith("ort fp32: images/s by calls at once, 1: ")


def test_each_artifact_runs_on_the_targets_it_has(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(folder / "labels")
    shutil.copytree(folder / "labels", tmp_path / "one")
    alone = tuple(entry for entry in manifest.targets if entry.target == "openvino")
    replace(manifest, targets=alone).write(tmp_path / "one")
    artifacts = [folder / "labels", tmp_path / "one"]
    found, left_out = list_candidates(artifacts, ["ort", "openvino"], (), 1, 1, None)
    assert [(c.folder.name, c.target) for c in found] == [
        ("labels", "ort"), ("labels", "openvino"), ("one", "openvino"),
    ]  # fmt: skip
    assert left_out == ["one is not built for ort"]
    with pytest.raises(ValueError, match="trt"):
        list_candidates(artifacts, ["trt"], (), 1, 1, None)


def test_random_weights_of_a_checkpoint_are_compared(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest = Manifest.read(folder / "labels")
    shutil.copytree(folder / "labels", tmp_path / "a")
    replace(manifest, model=replace(manifest.model, random_weights=True)).write(tmp_path / "a")
    artifact = ("--artifact", str(tmp_path / "a"), "--json")
    assert main([*artifact, *_weights(folder), *LIGHT]) == 0
    labels = json.loads(capsys.readouterr().out)["labels_equal_to_golden"]
    assert labels["PyTorch eager"] > 0.999


@pytest.mark.slow
def test_torch_compile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = ("--artifact", str(folder / "labels"), "--vs", "eager,compile", "--json")
    assert main([*artifact, *_weights(folder), *LIGHT]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["labels_equal_to_golden"]["torch.compile"] > 0.999


def test_two_runs(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    artifacts = ("--artifact", str(folder / "labels"), str(folder / "again"), "--vs", "none")
    earlier = tmp_path / "earlier.json"
    assert main([*artifacts, *LIGHT, "--out", str(earlier)]) == 0
    assert main([*artifacts, *LIGHT, "--against", str(earlier)]) == 0
    pair = "ort fp32 (again) / ort fp32: the interval "
    assert pair in capsys.readouterr().out
    result = json.loads(earlier.read_text())
    for change, message in (
        ({"schema": 0}, "is a result of another version: expected schema 1, got 0"),
        ({"threads": 7}, "cannot be compared with this run: expected threads 1, got 7"),
        ({"subject": "x"}, "cannot be compared with this run: expected subject "),
    ):
        earlier.write_text(json.dumps(result | change))
        with pytest.raises(ValueError, match=message):
            main([*artifacts, *LIGHT, "--against", str(earlier)])
    earlier.write_text("{")
    with pytest.raises(ValueError, match="is no result"):
        main([*artifacts, *LIGHT, "--against", str(earlier)])


def test_bad_input(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_checkpoint(make_model(make_config(), seed=9), tmp_path / "other.safetensors")
    monkeypatch.setenv("PATH", str(tmp_path))  # where no trtexec is
    labels = ("--artifact", str(folder / "labels"))
    alone = (*labels, "--vs", "none")
    images = ("--end-to-end", "--images")
    for arguments, code, message in (
        (("--artifact", str(tmp_path)), 1, "manifest"),
        (("--artifact", str(folder / "scores")), 1, "gives scores; build it with --output labels"),
        ((*labels, str(folder / "other")), 1, "expected tiny_cascade at 64x64, got tiny_single"),
        (labels, 1, "was built from a checkpoint: give it with --checkpoint"),
        ((*labels, "--checkpoint", str(tmp_path / "other.safetensors")), 1, "is not the one"),
        ((*alone, "--target", "trt"), 1, "holds no trt engine"),
        ((*alone, "--batch", "3"), 1, "--batch 3: "),
        ((*alone, *images, str(tmp_path)), 1, "holds no images"),
        ((*alone, *images, str(tmp_path / "no.png")), 1, "no such image"),
        ((*alone, "--against", str(tmp_path / "no.json")), 1, "no.json"),
        ((*alone, "--pin", "--threads", "999"), 1, "at most as many --threads as cores"),
        ((*labels, "--vs", "trtexec"), 1, "trtexec is not installed"),
        ((*labels, "--vs", "onnx"), 2, "'onnx' is unknown; expected one of: eager, compile"),
        ((*labels, "--rounds", "0"), 2, "must be at least 1"),
        ((*labels, "--warm-up", "-1"), 2, "--warm-up not below"),
        ((*labels, "--images", "x.png"), 2, "--images is for --end-to-end"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [*LIGHT, *arguments])
        assert stopped.value.code == code, arguments
        assert message in capsys.readouterr().err


def test_warnings_name_the_batch_where_there_are_several() -> None:
    runs = [{"batch": 1, "warnings": ["few rounds"]}, {"batch": 4, "warnings": ["few rounds"]}]
    assert latency._list_warnings(runs[:1]) == ["few rounds"]
    assert latency._list_warnings(runs) == ["batch 1: few rounds", "batch 4: few rounds"]
