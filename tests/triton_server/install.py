"""A virtual environment that holds a real tritonserver, made once: `.venv-triton`.

The `nvidia-pytriton` wheel brings the server with its python back end, and needs numpy 1.
"""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-triton"
# The same ONNX Runtime on both sides, so that labels can be compared bit by bit.
REQUIREMENTS = ("nvidia-pytriton==0.7.0", "numpy<2", f"onnxruntime=={version('onnxruntime')}")
STUB = "triton_python_backend_stub"
_INSTALL_TIMEOUT_S = 480


class InstallError(RuntimeError):
    """Why there can be no server on this machine."""


def install() -> Path:
    """Return the server's folder, installed now unless it was before.

    Raises:
        InstallError: if the packages cannot be had, or this Python has no shared library.
    """
    ready, wanted = VENV / ".ready", "\n".join(REQUIREMENTS)
    if not ready.is_file() or ready.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
        (VENV / ".gitignore").write_text("*\n")
        _run([str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS])
        ready.write_text(wanted)
    server = site_packages() / "pytriton" / "tritonserver"
    missing = [line for line in _linked(_stub(server)) if "not found" in line]
    if missing:
        raise InstallError(f"the server's {STUB} does not find {missing[0].strip()}")
    return server


def site_packages() -> Path:
    """Return where the environment's packages are."""
    return next(VENV.glob("lib/python*/site-packages"))


def assemble_backends(server: Path, folder: Path) -> Path:
    """Return a folder of back ends: the server's python one, and ours on top of it."""
    shutil.copytree(server / "backends" / "python", folder / "python")
    shutil.copy(_stub(server), folder / "python" / STUB)
    shutil.copytree(Path(__file__).with_name("backend"), folder / "onnxruntime")
    return folder


def _stub(server: Path) -> Path:
    number = f"{sys.version_info.major}.{sys.version_info.minor}"
    return server / "python_backend_stubs" / number / STUB


def _linked(path: Path) -> list[str]:
    return _run(["ldd", str(path)]).splitlines()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["failed"])[-1]
        raise InstallError(f"{' '.join(command)}: {reason}")
    return done.stdout
