"""Results of the benchmarks as JSON files: written whole, and read if of the right version."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segvit.atomic import write_bytes

Result = dict[str, Any]


def describe_command(module: str, argv: Sequence[str] | None) -> str:
    """Return the command that makes a result, as it is typed; None stands for the process's own."""
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(["python", "-m", module, *map(str, words)])


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, replacing an older file only when complete."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_result(path: Path, module: str, schema: int) -> Result:
    """Return an earlier result.

    Args:
        path: its file.
        module: what writes such results, as `python -m` takes it; it has `--out`.
        schema: the version expected.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no result of this schema version.
    """
    again = f"measure again: python -m {module} --out {path}"
    try:
        result = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"'{path}' is no result: {error}; {again}") from error
    found = result.get("schema") if isinstance(result, dict) else None
    if found != schema:
        raise ValueError(
            f"'{path}' is a result of another version: expected schema {schema}, got {found!r}; "
            f"{again}"
        )
    return dict(result)
