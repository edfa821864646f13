"""`benchmarks.suite`: steps that parse, names of results, resuming, failing."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import cpu_profile, latency_options, parity_options, report, suite, varied_weights
from benchmarks.suite import Step, list_peers, list_shipped, main
from export import build_options
from segvit.cli import run_main
from segvit.shipped import SHIPPED_MODELS

PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "benchmarks.cpu_profile": cpu_profile._parse_arguments,
    "benchmarks.latency": latency_options.parse_arguments,
    "benchmarks.parity": parity_options.parse_arguments,
    "benchmarks.report": report._parse_arguments,
    "benchmarks.varied_weights": varied_weights._parse_arguments,
    "export.build": build_options.parse_arguments,
}


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(suite, "name_device", lambda: "some-cpu")
    return suite._parse_arguments(
        ["--artifacts", str(tmp_path / "built"), "--results", str(tmp_path / "results")]
    )


@pytest.mark.parametrize("in_bf16", [False, True])
def test_every_step_parses_and_leaves_what_later_ones_take(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, in_bf16: bool
) -> None:
    monkeypatch.setattr(suite, "computes_bf16", lambda: in_bf16)
    made = set[str]()
    for step in [*list_shipped(arguments), *list_peers(arguments)]:
        PARSERS[step.module](step.arguments)
        taken = [word.split("=")[-1] for word in step.arguments if not word.startswith("--out")]
        outside = [word for word in taken if "/" in word and word not in made]
        assert not outside, f"{step.describe()} takes what no step makes: {outside}"
        made |= {str(step.output), str(step.output.parent)}
    month = datetime.now(UTC).strftime("%Y%m")
    for model in (*SHIPPED_MODELS, "vit_b_ade20k"):
        assert any(f"latency_{model}_some-cpu_{month}.json" in name for name in made)
    assert any("bf16" in name for name in made) == in_bf16


def test_what_is_there_is_kept_and_a_failure_ends_it(
    arguments: argparse.Namespace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "there").touch()
    monkeypatch.setattr(suite, "list_shipped", lambda _: [
        Step("no.such.module", (), tmp_path / "there"),
        Step("platform", (), tmp_path / "new"),
        Step("json.tool", ("none.json",), tmp_path / "never"),
    ])  # fmt: skip
    monkeypatch.setattr(suite, "list_peers", lambda _: [])
    monkeypatch.setattr(sys, "argv", ["suite", "--resume", "--artifacts", str(tmp_path / "built")])
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 1
    said = capfd.readouterr()
    assert "[1/3] python -m no.such.module  (kept)" in said.out
    assert "[2/3] python -m platform\n" in said.out
    last = said.err.splitlines()[-1]
    assert last == (
        "error: 'python -m json.tool none.json' failed, see above; mend it and go on with --resume"
    )
