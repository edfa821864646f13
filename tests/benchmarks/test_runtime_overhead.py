"""`benchmarks.runtime_overhead` on a small artifact: what it reports and what it refuses."""

import io
import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.runtime_overhead import main
from engines.target import Target, installed_version
from export.manifest import BuiltTarget, hash_file
from segvit.cli import run_main
from tests.engines.conftest import describe, write_segmenter

pytest.importorskip("openvino")
QUICK = ("--rounds", "2", "--warm-up", "0", "--threads", "1")
CALLS = {"bare call", "infer", "infer into out"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for both runtimes, of images that weigh more than Python's own objects."""
    folder, size = tmp_path_factory.mktemp("overhead"), 256
    write_segmenter(folder / "model.onnx", "fp32", size)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=np.zeros((2, size, size), np.int32))
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    entries = (
        BuiltTarget("ort", onnxruntime.__version__, (), "model.onnx"),
        BuiltTarget("openvino", installed_version(Target.OPENVINO), (), "model.onnx"),
    )
    files = {name: hash_file(folder / name) for name in ("model.onnx", "golden.npz")}
    replace(describe("fp32", size), files=files, targets=entries).write(folder)
    return folder


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_report(
    folder: Path, target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "overhead.json"
    arguments = ("--artifact", str(folder), "--target", target, "--out", str(out))
    assert main([*arguments, *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert set(report["latency"]) == CALLS
    assert set(report["overhead"]) == CALLS - {"bare call"}
    bare, infer = (report["latency"][name]["p50_ms"] for name in ("bare call", "infer"))
    assert report["overhead"]["infer"] == pytest.approx(infer / bare - 1)
    # Of labels alone what the caller gets, and nothing of an image's size where he gave it.
    allocated = report["allocated"]
    labels = allocated["output_bytes"]
    assert (labels, allocated["image_bytes"]) == (256 * 256, 256 * 256 * 3)
    assert labels <= allocated["peak_bytes"]["infer"] < 2 * labels
    assert allocated["peak_bytes"]["infer into out"] < labels / 2


def test_table_with_the_tool(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tool = tmp_path / "segvit-segment"
    tool.write_text(
        '#!/bin/sh\nfor last; do :; done; test -s "$last" && echo "{\\"median_ms\\": 2.5}"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    arguments = ("--artifact", str(folder), "--target", "openvino", "--cpp", str(tool))
    assert main([*arguments, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "infer into out" in printed
    assert "C++ 2.50 ms, Python " in printed


def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'error: no engine' >&2; exit 3\n")
    failing.chmod(0o755)
    artifact = ("--artifact", str(folder))
    cpp = (*artifact, "--target", "openvino", "--cpp")
    for arguments, code, message in (
        (("--artifact", str(tmp_path)), 1, "is no artifact folder"),
        ((*artifact, "--rounds", "0"), 2, "must be at least 1"),
        ((*artifact, "--target", "ort", "--cpp", str(failing)), 2, "on --target openvino"),
        ((*cpp, str(failing)), 1, "ended with 3 and said: error: no engine"),
        ((*cpp, str(tmp_path / "none")), 1, "none': No such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [*QUICK, *arguments])
        assert stopped.value.code == code
        assert message in capsys.readouterr().err
