"""Run `--help` of entry points where some packages cannot be imported; prints one JSON object.

    python tests/entry_points.py '["torch", ...]' MODULE ...

Each entry point runs in a process forked after the slow modules were imported, which saves seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

# Imported once before the forks, where they may be; anything slow belongs here.
SLOW = ("numpy", "cv2", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy.ndimage",
        "matplotlib", "lightning_fabric", "fastapi", "jinja2")  # fmt: skip


class Blocker:
    """All finders but for some packages, which are as if they were not installed."""

    def __init__(self, blocked: Sequence[str]) -> None:
        self.blocked, self.finders = set(blocked), list(sys.meta_path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the finders find, None for a blocked package."""
        if name.partition(".")[0] in self.blocked:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)


def run_help(module: str) -> tuple[int, str]:
    """Return the exit code of an entry point's `--help`, run in a fork, and what it said."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = 1
            sys.argv = [module, "--help"]
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as stopped:
                code = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
            except BaseException as error:  # as the interpreter does at its end
                sys.excepthook(type(error), error, error.__traceback__)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read().decode()


def main() -> None:
    """Print what each entry point did."""
    sys.meta_path[:] = [Blocker(json.loads(sys.argv[1]))]  # type: ignore[list-item]  # a finder
    for name in SLOW:
        with suppress(ImportError):
            importlib.import_module(name)
    print(json.dumps({module: run_help(module) for module in sys.argv[2:]}))


if __name__ == "__main__":
    main()
