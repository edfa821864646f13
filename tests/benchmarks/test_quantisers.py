"""`benchmarks.quantisers`: real rows on a tiny model, rows that fail, and another Python's rows."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks import quantisers
from benchmarks.other_quantisers import find_modelopt, quantise_with_modelopt
from benchmarks.quantisers import RECIPES, SKIPPED, Recipe, main
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from tests.graphs import traced_graph
from tests.tiny_models import make_config, make_model, random_images

PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"
FEW = ("--num-images", "2", "--num-calibration-images", "4", "--json")
# A package that answers for ModelOpt: it writes down what it was given and copies the graph.
STAND_IN = """\
import json, shutil
def quantize(onnx_path, calibration_data, output_path, nodes_to_quantize, quantize_mode, **rest):
    image = calibration_data["image"]
    if quantize_mode != "int8":
        raise RuntimeError("no such mode here")
    shutil.copyfile(onnx_path, output_path)
    with open(output_path + ".json", "w") as file:
        json.dump([str(image.dtype), image.shape, nodes_to_quantize, rest["calibration_eps"]], file)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantisers") / "model.safetensors"
    save_checkpoint(make_model(make_config()), path)
    return path


@pytest.fixture
def modelopt_python(tmp_path: Path) -> Path:
    """A Python whose ModelOpt is the stand-in."""
    package = tmp_path / "site" / "modelopt" / "onnx" / "quantization"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    info = tmp_path / "site" / "nvidia_modelopt-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: 9.9\n")
    python = tmp_path / "python"
    # It leaves out -I, which would hide the stand-in.
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.trt_rtx
def test_rows_of_a_tiny_model(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = [
        Recipe("ours", "int8", "fp16"),
        Recipe("ONNX Runtime", "int8", "fp16"),
        Recipe("ModelOpt", "int8", "fp32"),
    ]
    assert set(chosen) < set(RECIPES)
    monkeypatch.setattr(quantisers, "RECIPES", chosen)
    out = tmp_path / "quantisers.json"
    assert main(["--checkpoint", str(checkpoint), *FEW, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    ours, ort, skipped = report["rows"]
    for row in (ours, ort):
        assert row["failures"] == {}
        assert row["accuracy"]["images"] == 2
        assert row["engine"]["gemm_datatypes"]["Int8"] >= 1 + 4 * 3
    assert ours["engine"]["fused_attentions"] == ours["engine"]["attentions"] > 0
    assert 0 < ours["accuracy"]["score_rms"] < 0.05
    assert skipped["failures"] == {"quantise": SKIPPED}
    assert skipped["accuracy"] is skipped["engine"] is None


def test_a_row_that_fails_is_kept(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("this compiler\nrefuses it")

    chosen = [Recipe("ONNX Runtime", "int8", "fp16", "its own"), Recipe("none", "fp16", "fp16")]
    monkeypatch.setattr(quantisers, "RECIPES", chosen)
    monkeypatch.setattr(quantisers, "quantise_with_ort", refuse)
    monkeypatch.setattr(quantisers, "build_engine", refuse)
    out = tmp_path / "quantisers.json"
    assert main(["--checkpoint", str(checkpoint), *FEW[:-1], "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "  quantise: this compiler refuses it\n" in printed
    assert "  engine: this compiler refuses it\n" in printed
    ort, none = json.loads(out.read_text())["rows"]
    assert ort["failures"] == {"quantise": "this compiler refuses it"}
    assert ort["accuracy"] is ort["engine"] is ort["quantise_seconds"] is None
    assert none["accuracy"]["pixel_agreement"] > 0.9
    assert none["engine"] is None


def test_modelopt_runs_in_its_own_python(modelopt_python: Path, tmp_path: Path) -> None:
    modelopt = find_modelopt(modelopt_python)
    assert modelopt.versions["nvidia-modelopt"] == "9.9"
    source, images, out = (tmp_path / name for name in ("f.onnx", "images.npz", "q.onnx"))
    ir.save(traced_graph(), source)
    np.savez(images, image=random_images(3, 64, 64))
    quantise_with_modelopt(modelopt, source, images, out, "int8", ["encoder/1/fc1/MatMul"])
    assert out.read_bytes() == source.read_bytes()
    dtype, shape, (pattern,), providers = json.loads(Path(f"{out}.json").read_text())
    assert (dtype, shape, providers) == ("uint8", [3, 64, 64, 3], ["cpu"])
    assert re.match(pattern, "encoder/1/fc1/MatMul")
    assert not re.match(pattern, "encoder/1/fc1/MatMul_1")
    with pytest.raises(RuntimeError, match="ModelOpt failed: RuntimeError: no such mode here"):
        quantise_with_modelopt(modelopt, source, images, tmp_path / "no", "fp8", None)


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    for code, message, options in (
        (1, "'none': no such Python", ("--modelopt-python", "none")),
        (1, "No module named 'modelopt'", ("--modelopt-python", sys.executable)),
        (1, "Permission denied", ("--modelopt-python", str(text))),
        (2, "must be at least 1", ("--num-images", "0")),
        (2, "invalid choice: 'x'", ("--model", "x")),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, options)
        assert stopped.value.code == code
        said = capsys.readouterr().err
        assert message in said
        assert code == 2 or (said.startswith("error: ") and said.count("\n") == 1)


def test_the_page_has_commands_that_parse() -> None:
    commands = re.findall(r"^python -m benchmarks\.quantisers.*$", PAGE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        quantisers._parse_arguments(shlex.split(command)[3:])
