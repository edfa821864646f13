"""The command `segvit-deploy`, and what every entry point does alike. Standard library only.

Entry points import `run_main` from here before anything else, so that this module can speak where
an import fails: because an extra is missing, or because a folder of the user's own hides one of
our packages (`python -m` looks into the working directory first).
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import NoReturn

Main = Callable[[Sequence[str] | None], int]
DISTRIBUTION = "segvit-deploy"
PACKAGES = ("segvit", "export", "engines", "calibration", "benchmarks")
# What `segvit-deploy NAME` runs, and one line about it.
COMMANDS = {
    "build": ("export.build", "checkpoint to a checked artifact: ONNX and engines"),
    "engines": ("engines.build", "engines for other targets or GPUs, from an artifact's ONNX"),
    "segment": ("engines.segment", "labels and overlays of images; self-test"),
    "triton": ("export.triton", "a Triton model repository from an artifact"),
    "train": ("segvit.train", "train a SegViT"),
    "evaluate": ("segvit.evaluate", "mIoU of a checkpoint or an artifact"),
    "info": ("segvit.info", "the variants: sizes, parameters, operations"),
    "prepare": ("segvit.datasets.prepare", "masks from the raw annotations of published data sets"),
    "quantize": ("calibration.quantize", "Q/DQ into an ONNX file"),
    "sensitivity": ("calibration.sensitivity", "what quantizing each layer costs"),
    "latency": ("benchmarks.latency", "an artifact's latency beside baselines"),
    "parity": ("benchmarks.parity", "where an artifact's labels differ from PyTorch's"),
    "roofline": ("benchmarks.roofline", "an engine's estimated time on other GPUs"),
    "report": ("benchmarks.report", "one page about an artifact"),
    "sweep": ("benchmarks.sweep", "builds by precision and size, measured"),
    "suite": ("benchmarks.suite", "all measurements of the shipped models"),
}
_HELP = ("-h", "--help")
# Which extra brings a module; where several do, the one for whoever builds.
_EXTRA_OF = {
    "torch": "export",
    "safetensors": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "matplotlib": "export",
    "lightning_fabric": "train",
    "lightning": "train",
    "onnxruntime": "ort",
    "openvino": "openvino",
    "tensorrt": "trt",
    "tensorrt_rtx": "trt-rtx",
    "jinja2": "bench",
    "polygraphy": "bench",
    "pynvml": "bench",
    "fastapi": "serve",
    "uvicorn": "serve",
    "scipy": "prepare",
    "mpl_toolkits": "demo",
}
_FIXES = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write to a disk without that limit",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions or write elsewhere",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command of the project and exit; it takes and prints what `python -m MODULE` does."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name == "--version":
        print(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
        sys.exit(0)
    if name in _HELP:
        print(_describe_commands())
        sys.exit(0)
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: command {name[:80]!a} is unknown; expected one of: {known}", file=sys.stderr)
        sys.exit(2)
    module, _ = COMMANDS[name]
    sys.excepthook = _explain_import
    run_main(importlib.import_module(module).main, rest)


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
    if isinstance(error, ModuleNotFoundError) and error.name:
        return describe_missing(error.name)
    text = " ".join(str(error).split())
    return text or type(error).__name__


def describe_missing(name: str) -> str:
    """Return one line about a module that cannot be imported: what brings it, or what hides it."""
    top = name.partition(".")[0]
    if top in PACKAGES:
        return (
            f"module '{name}' is missing; the installation is damaged, repeat it: "
            f"pip install --force-reinstall {DISTRIBUTION}"
        )
    extra = _EXTRA_OF.get(top)
    if extra == "export" and _running_module().startswith("segvit."):
        extra = "train"
    wanted = f"'{DISTRIBUTION}[{extra}]'" if extra else f"{DISTRIBUTION}"
    return f"{top} is not installed; install it with: pip install {wanted}"


def find_hiding_folder() -> Path | None:
    """Return the first folder that Python takes for one of our packages, None if there is none."""
    home = Path(__file__).resolve().parent
    for package in PACKAGES:
        spec = find_spec(package)
        places = [
            Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()
        ]
        if places and home not in {place.parent for place in places}:
            return places[0]
    return None


def _describe_commands() -> str:
    lines = [f"usage: {DISTRIBUTION} COMMAND [OPTION ...]", "", "commands:"]
    lines += [f"  {name:12} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([
        *lines, "",
        f"`{DISTRIBUTION} COMMAND --help` shows a command's options; --version this version.", "",
        f"example:\n  {DISTRIBUTION} build --fp16",
    ])  # fmt: skip


def _explain_import(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say a missing module in one line, as an entry point's own errors; leave the rest as it is."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if {"-v", "--verbose"} & set(sys.argv):
            traceback.print_exception(kind, error, trace)
        print(f"error: {describe_missing(error.name)}", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, trace)


def _running_module() -> str:
    """Return the name of the module that runs as a program, empty where that is no module."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return str(spec.name) if spec is not None else ""


def _guard_entry_point() -> None:
    """Where Python is running one of our modules as a program, check what it will import."""
    module = _running_module()
    if module.partition(".")[0] not in PACKAGES:
        return
    sys.excepthook = _explain_import
    hiding = find_hiding_folder()
    if hiding is not None:
        command = next((name for name, (path, _) in COMMANDS.items() if path == module), "COMMAND")
        print(
            f"error: the folder '{hiding}' hides {DISTRIBUTION}'s package '{hiding.name}' from "
            f"python -m; run this in another folder, or as: {DISTRIBUTION} {command}",
            file=sys.stderr,
        )
        sys.exit(1)


_guard_entry_point()
