"""`benchmarks.precision`: every exception keeps something, and the report says what it gains."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.precision import KEPT, main
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from tests.graphs import traced_graph
from tests.tiny_models import make_config, make_model


@pytest.mark.parametrize("pattern", [pattern for pattern in KEPT.values() if pattern])
def test_every_exception_names_nodes(pattern: str) -> None:
    names = [str(node.name) for node in traced_graph("cascade").graph]
    matched = [name for name in names if re.search(pattern, name)]
    assert 0 < len(matched) < len(names) / 2 or pattern == "^head/"


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(make_model(make_config()), tmp_path / "m.safetensors")
    out = tmp_path / "precision.json"
    assert main(["--checkpoint", str(tmp_path / "m.safetensors"), "--num-images", "2",
                 "--out", str(out), "--json"]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert list(report["kept_in_fp32"]) == list(KEPT)
    errors = {name: figures["score_rms"] for name, figures in report["kept_in_fp32"].items()}
    assert all(0 < error < 1e-2 for error in errors.values())


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--num-images", "0"], 2), (["--checkpoint", "none.pth"], 1)):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, arguments)
        assert stopped.value.code == code
    assert "checkpoint 'none.pth' does not exist" in capsys.readouterr().err
