"""trtexec's figures, from a script that writes what trtexec documents."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.trtexec import run_trtexec
from export.manifest import BuiltTarget, Manifest, ModelInfo, TensorSpec, hash_file


def _make_artifact(folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(b"graph")
    Manifest(
        version="0.1.0",
        model=ModelInfo("tiny", 1, "Apache-2.0"),
        precision="fp32",
        input=TensorSpec("image", "uint8", ("batch", 64, 32, 3)),
        outputs=(TensorSpec("labels", "uint8", ("batch", 64, 32)),),
        classes=("a",),
        palette=((0, 0, 0),),
        batch=(1, 2, 4),
        files={"model.onnx": hash_file(folder / "model.onnx")},
        targets=(BuiltTarget("ort", "1", (), "model.onnx"),),
    ).write(folder)
    return folder


def _install(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "trtexec"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"h2dMs": 0.1, "computeMs": value, "d2hMs": 0.2, "latencyMs": value + 0.3}
        for value in np.linspace(1, 2, 11)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    copy = (
        f'echo "$@" > {tmp_path}/arguments\n'
        'for a in "$@"; do case $a in --exportTimes=*) '
        f'cp {tmp_path}/rows.json "${{a#*=}}";; esac; done'
    )
    _install(tmp_path, copy, monkeypatch)
    found = run_trtexec(_make_artifact(tmp_path), 2, 3.2, 0.25)
    assert found["compute"]["p50_ms"] == pytest.approx(1.5)
    assert found["latency"]["max_ms"] == pytest.approx(2.3)
    assert found["latency"]["calls"] == 11
    given = (tmp_path / "arguments").read_text()
    assert (
        "--shapes=image:2x64x32x3 --useCudaGraph --useSpinWait --duration=3 --warmUp=250" in given
    )


def test_a_failure_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "echo '[E] no GPU'\nexit 1", monkeypatch)
    with pytest.raises(RuntimeError, match=r"trtexec ended with 1 on .*: \[E\] no GPU"):
        run_trtexec(_make_artifact(tmp_path), 1, 1, 0)
