"""What every entry point does alike: one `error:` line, exit codes, no stray tracebacks."""

from __future__ import annotations

import argparse
import ctypes
import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

Main = Callable[[Sequence[str] | None], int]
_FIXES = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write to a disk without that limit",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions or write elsewhere",
}


def run_main(main: Main, argv: Sequence[str] | None = None) -> NoReturn:
    """Run an entry point and exit: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.

    A failure is one `error:` line; `-v` or `--verbose` among the arguments adds the traceback.
    `KeyboardInterrupt` may say what was kept.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        sys.exit(main(arguments))
    except KeyboardInterrupt as interrupt:
        kept = str(interrupt) or "nothing unfinished was kept"
        print(f"error: interrupted; {kept}", file=sys.stderr)
        # An extension that was interrupted while it ran Python code of its own leaves a mark on the
        # interpreter, which would then end by the signal instead of by the exit code. The next
        # code run that way wipes it off.
        ctypes.pythonapi.PyRun_SimpleString(b"")
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        print(f"error: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)


def describe_error(error: BaseException) -> str:
    """Return the error as one line that names its subject."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        fix = f"; {_FIXES[error.errno]}" if error.errno in _FIXES else ""
        return f"'{error.filename}': {error.strerror}{fix}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install the extra that brings it, see README.md"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `512` or `512x1024`; an argparse type."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels such as 512x512, got '{text}'")
    return int(parts[0]), int(parts[-1])
