"""What an ONNX file is compiled for, and whether this machine can compile or run it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from types import ModuleType

from engines.gpu import find_compute_capability, missing_gpu_reason

AUTO = "auto"


class Target(StrEnum):
    """A compiler or runtime; the value is what `--target` takes."""

    TRT = "trt"
    TRT_RTX = "trt-rtx"
    ORT = "ort"
    OPENVINO = "openvino"


# The preferred first: fastest where it runs.
PREFERENCE = (Target.TRT, Target.TRT_RTX, Target.ORT, Target.OPENVINO)
# Those that make engines for an NVIDIA GPU; the others run the ONNX file itself.
COMPILERS = (Target.TRT, Target.TRT_RTX)
_MODULES = {
    Target.TRT: "tensorrt",
    Target.TRT_RTX: "tensorrt_rtx",
    Target.ORT: "onnxruntime",
    Target.OPENVINO: "openvino",
}


def import_tensorrt(target: Target) -> ModuleType:
    """Return the bindings of TensorRT or TensorRT-RTX, which share one interface.

    Raises:
        ImportError: if they are not installed or do not load; the message names the extra.
    """
    name = _MODULES[target]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None  # Ctrl-C while a C extension initialised
        # OSError: the wheel is there but a shared library under it is not.
        reason = "is not installed" if find_spec(name) is None else f"does not load ({error})"
        raise ImportError(f"{name} {reason}; {_install_hint(target)}") from error


def installed_version(target: Target) -> str:
    """Return the version of a target's library, such as `10.16.0.72`.

    Raises:
        ImportError: if it is not installed.
    """
    if target in COMPILERS:
        return str(import_tensorrt(target).__version__)
    name = _MODULES[target]
    try:
        # OpenVINO adds its build and branch behind dashes.
        return str(importlib.import_module(name).__version__).split("-", maxsplit=1)[0]
    except ImportError as error:
        raise ImportError(f"{name} is not installed; {_install_hint(target)}") from error


def missing_reason(target: Target) -> str | None:
    """Return why this machine cannot build for `target`, None if it can.

    TensorRT-RTX compiles without a GPU; TensorRT times kernels on the one it builds for.
    """
    reason = _missing_library(target)
    if reason is None and target is Target.TRT:
        return missing_gpu_reason("TensorRT builds on the GPU that it builds for")
    return reason


def cannot_run_reason(target: Target) -> str | None:
    """Return why this machine cannot run what was built for `target`, None if it can."""
    reason = _missing_library(target)
    if reason is None and target in COMPILERS:
        return missing_gpu_reason(f"{target} engines run on an NVIDIA GPU")
    return reason


def own_compute_capability(device: int = 0) -> str:
    """Return the compute capability of a GPU of this machine as `SM89`.

    Raises:
        RuntimeError: if there is none.
    """
    return find_compute_capability(device)


def parse_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets asked for by name; none for `auto`, which means all that can be built.

    Raises:
        ValueError: if a name is no target, or `auto` stands beside another.
    """
    if AUTO in names:
        if len(set(names)) > 1:
            raise ValueError(f"--target: 'auto' stands alone, got {', '.join(names)}")
        return ()
    known = ", ".join((*Target, AUTO))
    for name in names:
        if name not in tuple(Target):
            raise ValueError(f"target '{name}' is unknown; expected one of: {known}")
    return tuple(dict.fromkeys(Target(name) for name in names))


def _missing_library(target: Target) -> str | None:
    try:
        installed_version(target)
    except ImportError as error:
        return str(error)
    return None


def _install_hint(target: Target) -> str:
    return f"install it with: pip install 'segvit-deploy[{target}]'"
