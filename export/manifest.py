"""The manifest of an artifact folder: what was built, for what, from what, and its hashes.

`manifest.json` is written last, so a folder that has one is complete. Reading trusts nothing: the
file may come from another machine, and an engine it names is executable code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from export.manifest_decode import decode
from export.manifest_records import AuditSummary as AuditSummary
from export.manifest_records import BuiltTarget as BuiltTarget
from export.manifest_records import MissingTarget as MissingTarget
from export.manifest_records import ModelInfo as ModelInfo
from export.manifest_records import Parity as Parity
from export.manifest_records import PartSummary as PartSummary
from export.manifest_records import TensorSpec as TensorSpec
from segvit.atomic import replace_folder, write_bytes

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
REBUILD = "python -m export.build --out {folder} …"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH_CHUNK = 1 << 20
_METADATA_FIELDS = ("version", "model", "precision", "classes", "palette")


class ManifestError(RuntimeError):
    """An artifact folder that cannot be used as it is; the message says what mends it."""


@dataclass(frozen=True)
class Manifest:
    """All that a user of an artifact folder has to know; see the module's first lines.

    `batch` is (smallest, typical, largest); `mode` is `whole`, or `slide` where windows are cut and
    stitched in the graph; `files` maps each file's name, relative to the folder, to its sha256.
    """

    version: str
    model: ModelInfo
    precision: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    schema: int = SCHEMA
    batch: tuple[int, int, int] = (1, 1, 1)
    mode: str = "whole"
    files: dict[str, str] = field(default_factory=dict)
    targets: tuple[BuiltTarget, ...] = ()
    not_built: tuple[MissingTarget, ...] = ()
    parity: Parity | None = None
    warnings: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Return the manifest of an artifact folder, every field checked.

        Raises:
            FileNotFoundError: if there is no manifest.
            ManifestError: if it is of another schema, damaged, or names a file outside the folder.
        """
        path = Path(folder) / MANIFEST_NAME
        values = _load_json(path)
        schema = values.get("schema")
        if schema != SCHEMA:
            raise ManifestError(
                f"'{path}' is of another version: expected schema {SCHEMA}, got {schema!r}; build "
                f"the artifact again with this version: {REBUILD.format(folder=folder)}"
            )
        try:
            manifest = decode(cls, values)
            manifest.check()
        except ValueError as error:
            raise ManifestError(
                f"'{path}' is damaged: {error}; build the artifact again: "
                f"{REBUILD.format(folder=folder)}"
            ) from error
        return manifest

    def write(self, folder: str | Path) -> Path:
        """Write `manifest.json` into `folder`, atomically, and return its path.

        Raises:
            ValueError: if the manifest contradicts itself.
            OSError: if the folder cannot be written.
        """
        self.check()
        path = Path(folder) / MANIFEST_NAME
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(path, f"{text}\n".encode())
        return path

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other or a name leaves the folder."""
        for name, digest in self.files.items():
            _check_name(name)
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"files['{name}']: expected a sha256, got '{digest[:80]}'")
        for built in self.targets:
            for name in filter(None, (built.file, built.layers)):
                _check_name(name)
                if name not in self.files:
                    raise ValueError(f"target '{built.target}' names '{name}', which files lacks")
        if not self.outputs:
            raise ValueError("outputs: expected at least one, got none")
        if len(self.input.shape) != 4:
            shape = list(self.input.shape)
            raise ValueError(f"input: expected a shape (batch, height, width, 3), got {shape}")
        if len(self.palette) != len(self.classes):
            counts = f"{len(self.classes)} classes, got {len(self.palette)}"
            raise ValueError(f"palette: expected a colour for each of the {counts}")
        if not all(0 <= channel <= 255 for colour in self.palette for channel in colour):
            raise ValueError("palette: expected channels of 0 to 255")
        smallest, typical, largest = self.batch
        if not 1 <= smallest <= typical <= largest:
            raise ValueError(f"batch: expected 1 <= min <= opt <= max, got {list(self.batch)}")

    def with_targets(
        self,
        built: tuple[BuiltTarget, ...],
        not_built: tuple[MissingTarget, ...],
        files: Mapping[str, str],
    ) -> Manifest:
        """Return a copy with targets added, each in the place of one of its name and file."""
        files_built = {(entry.target, entry.file) for entry in built}
        targets_built = {entry.target for entry in built}
        missing = {entry.target: entry for entry in (*self.not_built, *not_built)}
        return replace(
            self,
            targets=tuple(e for e in self.targets if (e.target, e.file) not in files_built) + built,
            not_built=tuple(entry for name, entry in missing.items() if name not in targets_built),
            files={**self.files, **files},
        )

    def metadata(self) -> dict[str, str]:
        """Return what rides in the ONNX file's `metadata_props`: one JSON value a key."""
        values = asdict(self)
        return {name: json.dumps(values[name], ensure_ascii=False) for name in _METADATA_FIELDS}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], input: TensorSpec, outputs: tuple[TensorSpec, ...]
    ) -> Manifest:
        """Return the manifest of an ONNX file, without files or targets, from its metadata.

        Raises:
            ValueError: if the metadata is not what `metadata` gives.
        """
        missing = [name for name in _METADATA_FIELDS if name not in metadata]
        if missing:
            raise ValueError(
                f"the ONNX file's metadata lacks {', '.join(missing)}: it was not made by "
                "python -m export.build, which writes them"
            )
        try:
            values = {name: json.loads(metadata[name]) for name in _METADATA_FIELDS}
        except json.JSONDecodeError as error:
            raise ValueError(f"the ONNX file's metadata is no JSON: {error}") from error
        described = {"input": asdict(input), "outputs": [asdict(output) for output in outputs]}
        manifest = decode(cls, json.loads(json.dumps({**values, **described})))
        manifest.check()
        return manifest


def hash_file(path: str | Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify_file(folder: str | Path, name: str, manifest: Manifest | None = None) -> Path:
    """Return the path of one of the artifact's files after checking it against the manifest.

    Raises:
        ManifestError: if the manifest does not list it, it lies outside the folder, is missing,
            or its sha256 differs.
    """
    path, expected = _locate(folder, name, manifest)
    _compare(path, expected, hash_file(path))
    return path


def read_verified(folder: str | Path, name: str, manifest: Manifest | None = None) -> bytes:
    """Return the bytes of one of the artifact's files; the very bytes that were hashed.

    Raises:
        ManifestError: as `verify_file` does.
    """
    path, expected = _locate(folder, name, manifest)
    data = path.read_bytes()
    _compare(path, expected, hashlib.sha256(data).hexdigest())
    return data


@contextmanager
def stage_artifact(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the artifact folder when the block ends well.

    An earlier artifact there is replaced, and kept if the block fails.

    Raises:
        ValueError: if `folder` holds something else than an artifact.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise ValueError(
            f"'{folder}' holds files but no {MANIFEST_NAME}, so it is no artifact and will not be "
            "replaced; give --out a new or empty folder"
        )
    with replace_folder(folder) as staged:
        yield staged


def _locate(folder: str | Path, name: str, manifest: Manifest | None) -> tuple[Path, str]:
    folder = Path(folder)
    manifest = manifest or Manifest.read(folder)
    try:
        _check_name(name)
    except ValueError as error:
        raise ManifestError(f"'{folder}': {error}") from error
    if name not in manifest.files:
        listed = ", ".join(manifest.files) or "no files"
        raise ManifestError(f"'{folder / name}' is not in the manifest, which lists {listed}")
    path = folder / name
    if not path.is_file():
        raise ManifestError(
            f"'{path}' is missing though the manifest lists it; copy the whole folder again, or "
            f"rebuild it: {_mending_command(path)}"
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(
            f"'{path}' is a link to '{path.resolve()}', outside the artifact; copy the file in"
        )
    return path, manifest.files[name]


def _compare(path: Path, expected: str, got: str) -> None:
    if got != expected:
        raise ManifestError(
            f"'{path}' was changed after it was built: expected sha256 {expected}, got {got}; "
            f"do not use it, rebuild it: {_mending_command(path)}"
        )


def _mending_command(path: Path) -> str:
    if path.suffix == ".engine":
        return f"python -m engines.build --artifact {path.parent}"
    return REBUILD.format(folder=path.parent)


def _check_name(name: str) -> None:
    """Refuse whatever is no plain relative path below the folder, on any system."""
    if len(name) > 255 or not _PLAIN_NAME.fullmatch(name) or ".." in PurePosixPath(name).parts:
        raise ValueError(
            f"file name '{name[:80]}' is refused: expected a plain name inside the artifact folder"
        )


def _load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file of bounded size."""
    if not path.is_file():
        raise FileNotFoundError(
            f"'{path.parent}' is no artifact folder: it has no {MANIFEST_NAME}; make one with "
            f"{REBUILD.format(folder=path.parent)}"
        )
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        limit = MAX_MANIFEST_BYTES // 2**20
        raise ManifestError(
            f"'{path}' is no manifest: expected at most {limit} MiB, got more; build the artifact "
            f"again: {REBUILD.format(folder=path.parent)}"
        )
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"'{path}' is damaged: {error}; build the artifact again: "
            f"{REBUILD.format(folder=path.parent)}"
        ) from error
    if not isinstance(values, dict):
        raise ManifestError(f"'{path}' is damaged: expected a JSON object; build it again")
    return values
