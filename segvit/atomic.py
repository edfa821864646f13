"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOTDIR
from pathlib import Path


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it becomes `path` when the block ends well.

    The folder is created. Whatever stood at `path` stays untouched until then.

    Raises:
        OSError: naming `path` itself (a read-only folder, a full disk, a file for a folder).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        _name_target(error, temporary, path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to disk under `path`, replacing an older file only when all of it is there.

    Raises:
        OSError: naming `path`.
    """
    with replace_file(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes the place of `path` when the block ends well.

    An earlier folder of that name is moved aside first and deleted last, so that whatever
    interrupts the block leaves it as it was.

    Raises:
        OSError: naming `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise _not_a_folder(path)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        make_folder(path.parent)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        yield staged
        if path.exists():
            path.rename(retired)
        try:
            staged.rename(path)
        except OSError:
            if retired.exists():
                retired.rename(path)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        _name_target(error, staged, path)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        NotADirectoryError: if a file stands in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _not_a_folder(path) from error


def _not_a_folder(path: Path) -> NotADirectoryError:
    return NotADirectoryError(ENOTDIR, "is a file, expected a folder for the output", str(path))


def _name_target(error: OSError, temporary: Path, path: Path) -> None:
    """Let the error name what the user asked for, not the temporary name beside it."""
    named = str(path if error.filename is None else error.filename)
    error.filename, error.filename2 = named.replace(str(temporary), str(path)), None
