"""An artifact's JSON files: read without trust, and hashed as the bytes that are parsed."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(RuntimeError):
    """An artifact folder that cannot be used as it is; the message says what mends it."""


def read_bounded(path: Path, what: str, mend: str) -> bytes:
    """Return the bytes of a JSON file.

    Args:
        path: the file.
        what: it should be.
        mend: what the error tells the user to do.

    Raises:
        ManifestError: if the file is larger than any that we write.
    """
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        limit = MAX_MANIFEST_BYTES // 2**20
        raise ManifestError(
            f"'{path}' is no {what}: expected at most {limit} MiB, got more; {mend}"
        )
    return data


def parse_object(path: Path, data: bytes, mend: str) -> dict[str, Any]:
    """Return the JSON object that the bytes of a file hold.

    Raises:
        ManifestError: if they hold none.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"'{path}' is damaged: {error}; {mend}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"'{path}' is damaged: expected a JSON object; {mend}")
    return values


def check_name(name: str) -> None:
    """Raise ValueError for whatever is no plain relative path below the folder, on any system."""
    if len(name) > 255 or not _PLAIN_NAME.fullmatch(name) or ".." in PurePosixPath(name).parts:
        raise ValueError(
            f"file name '{name[:80]}' is refused: expected a plain name inside the artifact folder"
        )


def check_files(files: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError unless all names are plain and each has a sha256."""
    for name, digest in files:
        check_name(name)
        if not _SHA256.fullmatch(digest):
            raise ValueError(f"files['{name}']: expected a sha256, got '{digest[:80]}'")


def parse_digest(text: str) -> str:
    """Return the digest of an artifact as `hash_file` writes it; capital letters are the same.

    Raises:
        ValueError: if it is not the whole of one.
    """
    digest = text.lower()
    if not _SHA256.fullmatch(digest):
        raise ValueError(
            f"digest '{text[:80]}': expected all 64 hexadecimal digits of the sha256 of "
            f"manifest.json, got {len(digest)} characters; builds print it, and so does sha256sum"
        )
    return digest


def digest_argument(text: str) -> str:
    """Return what `--digest` is given, checked: a type for argparse."""
    try:
        return parse_digest(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_digest(path: Path, data: bytes, expected: str | None) -> str:
    """Return the digest of an artifact, the sha256 of the bytes of its manifest.

    Args:
        path: of the manifest.
        data: its bytes.
        expected: the digest that it must have; None accepts any.

    Raises:
        ValueError: if `expected` is no digest.
        ManifestError: if the manifest has another.
    """
    got = hashlib.sha256(data).hexdigest()
    if expected is not None and got != parse_digest(expected):
        raise ManifestError(
            f"'{path.parent}' is not the artifact that was asked for: expected digest "
            f"{parse_digest(expected)}, got {got}; copy the right artifact there, or give the "
            "digest of this one if it is the one you want"
        )
    return got
