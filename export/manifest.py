"""The manifest of an artifact folder: what was built, for what, from what, and its hashes.

`manifest.json` is written last, so a folder that has one is complete. Its sha256 is the artifact's
digest, which a caller can pin: it binds every file that the manifest lists. Reading trusts nothing:
the file may come from another machine, and an engine it names is executable code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from export.engine_list import EngineList, leave_out_replaced, merge_missing, merge_targets
from export.manifest_decode import decode
from export.manifest_file import MAX_MANIFEST_BYTES as MAX_MANIFEST_BYTES
from export.manifest_file import ManifestError as ManifestError
from export.manifest_file import check_digest, check_files, check_name, parse_object, read_bounded
from export.manifest_records import AuditSummary as AuditSummary
from export.manifest_records import BuiltTarget as BuiltTarget
from export.manifest_records import MissingTarget as MissingTarget
from export.manifest_records import ModelInfo as ModelInfo
from export.manifest_records import Parity as Parity
from export.manifest_records import PartSummary as PartSummary
from export.manifest_records import TensorSpec as TensorSpec
from export.manifest_records import ValueRange as ValueRange
from segvit.atomic import replace_folder, write_bytes

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
REBUILD = "python -m export.build --out {folder} …"
_HASH_CHUNK = 1 << 20
_METADATA_FIELDS = ("version", "model", "precision", "classes", "palette", "attention")
# What files of earlier versions lack.
_OPTIONAL_METADATA = frozenset({"attention"})


@dataclass(frozen=True)
class Manifest:
    """All that a user of an artifact folder has to know; see the module's first lines.

    `batch` is (smallest, typical, largest); `mode` is `whole`, or `slide` where windows are cut and
    stitched in the graph; `attention` is what 16-bit attentions ask for, `fp32-sums`, `fp16-sums`
    or `unfused`, and None where there are none; `files` maps each file's name, relative to the
    folder, to its sha256. `ranges` has, of each kind of 16-bit values, the layer nearest to its
    datatype's end. `digest` is the sha256 of the file that it was read from, and `added` the
    engines that came later, which stand among `targets` too; that file holds neither.
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
    attention: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    targets: tuple[BuiltTarget, ...] = ()
    not_built: tuple[MissingTarget, ...] = ()
    parity: Parity | None = None
    ranges: tuple[ValueRange, ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    digest: str | None = field(default=None, compare=False)
    added: EngineList | None = field(default=None, compare=False)

    @classmethod
    def read(cls, folder: str | Path, digest: str | None = None) -> Manifest:
        """Return the manifest of an artifact folder, every field checked.

        Engines that were added since it was built, listed in `engines.json`, are in it too, in the
        place of those that they replace.

        Args:
            folder: the artifact folder.
            digest: the sha256 that `manifest.json` must have; None accepts any.

        Raises:
            FileNotFoundError: if there is no manifest.
            ValueError: if `digest` is none.
            ManifestError: if it has another digest, is of another schema, damaged, or names a file
                outside the folder; or if the list of added engines is not one of this artifact.
        """
        manifest = cls._read_own(Path(folder), digest)
        assert manifest.digest is not None
        added = EngineList.read(Path(folder), manifest.digest, manifest.files)
        if added is None:
            return manifest
        left = leave_out_replaced(manifest.targets, added.targets)
        grown = replace(manifest, targets=left)
        grown = grown.with_targets(added.targets, added.not_built, added.files)
        warnings = manifest.warnings + added.warnings
        return replace(grown, batch=added.batch, warnings=warnings, added=added)

    @classmethod
    def _read_own(cls, folder: Path, digest: str | None) -> Manifest:
        """Return what `manifest.json` says, its bytes hashed before they are parsed."""
        path, mend = folder / MANIFEST_NAME, REBUILD.format(folder=folder)
        if not path.is_file():
            raise FileNotFoundError(
                f"'{folder}' is no artifact folder: it has no {MANIFEST_NAME}; make one with {mend}"
            )
        data = read_bounded(path, "manifest", f"build the artifact again: {mend}")
        found = check_digest(path, data, digest)
        values = parse_object(path, data, f"build the artifact again: {mend}")
        schema = values.get("schema")
        if schema != SCHEMA:
            raise ManifestError(
                f"'{path}' is of another version: expected schema {SCHEMA}, got {schema!r}; build "
                f"the artifact again with this version: {mend}"
            )
        try:
            manifest = decode(cls, values)
            manifest.check()
        except ValueError as error:
            raise ManifestError(
                f"'{path}' is damaged: {error}; build the artifact again: {mend}"
            ) from error
        return replace(manifest, digest=found, added=None)

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        values = asdict(replace(self, added=None))
        del values["digest"], values["added"]
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: str | Path) -> Path:
        """Write `manifest.json` into `folder`, atomically, and return its path.

        Raises:
            ValueError: if the manifest contradicts itself.
            OSError: if the folder cannot be written.
        """
        self.check()
        path = Path(folder) / MANIFEST_NAME
        write_bytes(path, self.to_json().encode())
        return path

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other or a name leaves the folder."""
        check_files(self.files.items())
        for built in self.targets:
            for name in filter(None, (built.file, built.layers)):
                check_name(name)
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
        return replace(
            self,
            targets=merge_targets(self.targets, built),
            not_built=merge_missing(self.not_built, not_built, built),
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
        known = [name for name in _METADATA_FIELDS if name in metadata]
        missing = [n for n in _METADATA_FIELDS if n not in {*known, *_OPTIONAL_METADATA}]
        if missing:
            raise ValueError(
                f"the ONNX file's metadata lacks {', '.join(missing)}: it was not made by "
                "python -m export.build, which writes them"
            )
        try:
            values = {name: json.loads(metadata[name]) for name in known}
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
        check_name(name)
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
