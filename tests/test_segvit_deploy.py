"""The command `segvit-deploy`, and folders that hide our packages."""

from __future__ import annotations

from segvit_deploy import COMMANDS, main

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = "import sys; sys.path.pop(0); from segvit_deploy import main; main()"


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def _exit(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_version_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(capsys, "--version") == (0, f"segvit-deploy {version('segvit-deploy')}\n", "")
    for words in ((), ("--help",), ("-h",)):
        code, out, _ = _exit(capsys, *words)
        assert code == 0
        assert all(f"\n  {name} " in out for name in COMMANDS)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _exit(capsys, "biuld", "--fp16")
    assert (code, out) == (2, "")
    assert err.startswith("error: command 'biuld' is unknown; expected one of: build, engines")
    assert "\x1b" not in _exit(capsys, "\x1b[31mred")[2]


def test_a_command_is_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _exit(capsys, "segment", "--help")
    assert code == 0
    assert out.startswith("usage: python -m engines.segment")


@pytest.mark.parametrize("hidden", ["export", "segvit"])
def test_a_folder_that_hides_a_package_is_named(tmp_path: Path, hidden: str) -> None:
    (tmp_path / hidden).mkdir()
    (tmp_path / hidden / "__init__.py").touch()
    done = _run("-m", "engines.segment", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the folder '{tmp_path / hidden}' hides segvit-deploy's package '{hidden}' from "
        "python -m; run this in another folder, or as: segvit-deploy segment\n"
    )
    # The command does not look into the working directory.
    done = _run("-c", COMMAND, "segment", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_without_modules_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    assert _run("-m", "engines.segment", "--help", cwd=tmp_path).returncode == 0
