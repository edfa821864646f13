"""TensorRT-RTX's runtime cache: kernels compiled for this GPU at the first load, kept for the next.

Such a cache is executable code that no build vouches for, so it is no part of an artifact, which
may come from anywhere and be writable by anyone. It lies in the user's own cache folder, which
nobody else may write to, under the engine's sha256, and is read only if that still holds. The
library by itself refuses a cache of another version, GPU or driver.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from segvit.atomic import replace_file

MAX_CACHE_BYTES = 1 << 30
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def find_runtime_cache(engine_sha256: str, compute_capability: str) -> Path:
    """Return where the cache of an engine on a GPU is, or would be.

    That is below `$XDG_CACHE_HOME` (`%LOCALAPPDATA%` on Windows), by default `~/.cache`.
    """
    variable = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    base = Path(os.environ.get(variable) or Path.home() / ".cache")
    name = f"{engine_sha256}-{compute_capability.lower()}.runtime_cache"
    return base / "segvit" / "tensorrt-rtx" / name


def read_runtime_cache(path: Path) -> bytes | None:
    """Return a cache's bytes, None if there is none.

    Raises:
        ValueError: if somebody else could have written it, or it is too large to be one.
        OSError: if it cannot be read.
    """
    if not path.exists():
        return None
    _check_owned(path.parent, path.parent.lstat())
    # Not through a link, and the very file that was looked at.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(opened.fileno())
        _check_owned(path, found)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_CACHE_BYTES:
            raise ValueError(f"'{path}' is no file of at most {MAX_CACHE_BYTES >> 20} MiB")
        return opened.read()


def write_runtime_cache(path: Path, data: bytes | memoryview) -> None:
    """Put a cache where this user alone can write, whole or not at all.

    Raises:
        ValueError: if the folder is somebody else's.
        OSError: if it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owned(path.parent, path.parent.lstat())
    with replace_file(path) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)


def _check_owned(path: Path, found: os.stat_result) -> None:
    """Refuse what others may write to; Windows keeps the folder's rights by itself."""
    if os.name == "nt":
        return
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
        raise ValueError(
            f"'{path}' may be written by others (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}); delete it, or run: chmod go-w {path}"
        )
