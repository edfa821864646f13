"""What every command does alike."""

import argparse
from collections.abc import Sequence

import pytest

from segvit.cli import describe_error, parse_size, run_main


def _exit(main: object, argv: list[str] | None = None) -> int:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, argv or [])
    return int(stopped.value.code or 0)


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(lambda argv: 0) == 0
    assert _exit(lambda argv: 3) == 3

    def interrupted(argv: Sequence[str] | None) -> int:
        raise KeyboardInterrupt

    assert _exit(interrupted) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing unfinished was kept\n"

    def kept(argv: Sequence[str] | None) -> int:
        raise KeyboardInterrupt("'x' is whole")

    assert _exit(kept) == 130
    assert capsys.readouterr().err == "error: interrupted; 'x' is whole\n"


def _fail(argv: Sequence[str] | None) -> int:
    raise ValueError("size 3\nis wrong; take 4")


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(_fail) == 1
    assert capsys.readouterr().err == "error: size 3 is wrong; take 4\n"


def test_verbose_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(_fail, ["-v"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: size 3 is wrong; take 4\n")


def test_bugs_are_not_hidden() -> None:
    def buggy(argv: Sequence[str] | None) -> int:
        raise AssertionError

    with pytest.raises(AssertionError):
        run_main(buggy, [])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.png"), "'a.png': No such file"),
        (
            OSError(28, "No space left on device", "out"),
            "'out': No space left on device; free some",
        ),
        (
            ModuleNotFoundError("No module named 'onnx'", name="onnx"),
            "onnx is not installed; install it with: pip install 'segvit-deploy[export]'",
        ),
        (
            ModuleNotFoundError("No module named 'export.manifest'", name="export.manifest"),
            "module 'export.manifest' is missing; the installation is damaged",
        ),
        (MemoryError(), "MemoryError"),
    ],
)
def test_descriptions(error: Exception, text: str) -> None:
    assert text in describe_error(error)


def test_sizes() -> None:
    assert parse_size("512") == (512, 512)
    assert parse_size("384x640") == (384, 640)
    for text in ("", "x", "64x", "0", "-4", "1x2x3", "64.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected HxW in pixels"):
            parse_size(text)
