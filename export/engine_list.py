"""Engines that an artifact gained after it was built, on a machine that runs it.

They stand in `engines.json`, so that `manifest.json` and with it the artifact's digest stay the
same. The list names the digest of the artifact that it belongs to, and the sha256 of every file.
It can add engines alone: what the manifest lists stays as the manifest says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from export.manifest_decode import decode
from export.manifest_file import ManifestError, check_files, parse_object, read_bounded
from export.manifest_records import BuiltTarget, MissingTarget
from segvit.atomic import write_bytes

ENGINES_NAME = "engines.json"
ENGINES_SCHEMA = 1
# Those whose files are built on a machine; the others run the graph, which the manifest lists.
_COMPILED = ("trt", "trt-rtx")


@dataclass(frozen=True)
class EngineList:
    """The added engines; `manifest` is the digest of the artifact, `batch` what they take."""

    manifest: str
    batch: tuple[int, int, int]
    schema: int = ENGINES_SCHEMA
    files: dict[str, str] = field(default_factory=dict)
    targets: tuple[BuiltTarget, ...] = ()
    not_built: tuple[MissingTarget, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path, digest: str, listed: Collection[str]) -> EngineList | None:
        """Return the list of an artifact folder, every field checked; None where there is none.

        Args:
            folder: the artifact folder.
            digest: of the artifact.
            listed: the files of its manifest.

        Raises:
            ManifestError: if it is damaged, belongs to another artifact, or contradicts the
                manifest.
        """
        path = folder / ENGINES_NAME
        if not path.exists():
            return None
        mend = f"delete it and build again: python -m engines.build --artifact {folder}"
        values = parse_object(path, read_bounded(path, "list of engines", mend), mend)
        schema, owner = values.get("schema"), values.get("manifest")
        if schema != ENGINES_SCHEMA:
            raise ManifestError(
                f"'{path}' is of another version: expected schema {ENGINES_SCHEMA}, got "
                f"{schema!r}; {mend}"
            )
        if owner != digest:
            raise ManifestError(
                f"'{path}' belongs to another artifact: expected the digest {digest} of the "
                f"manifest beside it, got {str(owner)[:80]}; {mend}"
            )
        try:
            engines = decode(cls, values)
            engines.check(listed)
        except ValueError as error:
            raise ManifestError(f"'{path}' is damaged: {error}; {mend}") from error
        return engines

    def with_targets(
        self,
        built: tuple[BuiltTarget, ...],
        not_built: tuple[MissingTarget, ...],
        files: Mapping[str, str],
        warnings: tuple[str, ...],
    ) -> EngineList:
        """Return a copy with targets added, each in the place of one of its name and file."""
        targets = merge_targets(self.targets, built)
        named = {name for entry in targets for name in (entry.file, entry.layers)}
        replaced = tuple(f"'{file}': " for file in files)
        kept = (line for line in self.warnings if not line.startswith(replaced))
        return replace(
            self,
            targets=targets,
            not_built=merge_missing(self.not_built, not_built, built),
            files={n: digest for n, digest in {**self.files, **files}.items() if n in named},
            warnings=(*kept, *warnings),
        )

    def without(self, files: Collection[str]) -> EngineList:
        """Return a copy without those files and the engines that name them."""
        targets = tuple(e for e in self.targets if e.file not in files and e.layers not in files)
        named = {name for entry in targets for name in (entry.file, entry.layers)}
        left = {name: digest for name, digest in self.files.items() if name in named}
        return replace(self, targets=targets, files=left)

    def write(self, folder: Path, listed: Collection[str]) -> Path:
        """Write `engines.json` into `folder`, atomically, and return its path.

        Raises:
            ValueError: if the list contradicts itself or the manifest, whose files `listed` are.
            OSError: if the folder cannot be written.
        """
        self.check(listed)
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(folder / ENGINES_NAME, f"{text}\n".encode())
        return folder / ENGINES_NAME

    def check(self, listed: Collection[str]) -> None:
        """Raise ValueError where it contradicts itself, or would change what is `listed`."""
        check_files(self.files.items())
        for name in self.files:
            if name in listed:
                raise ValueError(f"files has '{name}', which manifest.json lists already")
        used = set()
        for built in self.targets:
            for name in filter(None, (built.file, built.layers)):
                if name in self.files and built.target not in _COMPILED:
                    raise ValueError(
                        f"target '{built.target}' names '{name}', which manifest.json lacks: "
                        f"only engines of {' and '.join(_COMPILED)} can be added"
                    )
                if name not in self.files and name not in listed:
                    raise ValueError(f"target '{built.target}' names '{name}', which files lacks")
                if name not in self.files and built.target in _COMPILED:
                    raise ValueError(
                        f"target '{built.target}' names '{name}', which manifest.json lists: what "
                        "that says of its own engines stays"
                    )
                used.add(name)
        unused = [name for name in self.files if name not in used]
        if unused:
            raise ValueError(f"files has '{unused[0]}', which no target names")
        smallest, typical, largest = self.batch
        if not 1 <= smallest <= typical <= largest:
            raise ValueError(f"batch: expected 1 <= min <= opt <= max, got {list(self.batch)}")


def merge_targets(
    targets: tuple[BuiltTarget, ...], built: tuple[BuiltTarget, ...]
) -> tuple[BuiltTarget, ...]:
    """Return the targets and those built, which replace what has their name and file."""
    replaced = {(entry.target, entry.file) for entry in built}
    return tuple(e for e in targets if (e.target, e.file) not in replaced) + built


def leave_out_replaced(
    targets: tuple[BuiltTarget, ...], added: tuple[BuiltTarget, ...]
) -> tuple[BuiltTarget, ...]:
    """Return the targets but for engines all of whose GPUs have an added one."""
    return tuple(
        entry
        for entry in targets
        if not entry.compute_capabilities
        or not any(
            entry.target == newer.target
            and set(entry.compute_capabilities) <= set(newer.compute_capabilities)
            for newer in added
        )
    )


def merge_missing(
    before: tuple[MissingTarget, ...],
    now: tuple[MissingTarget, ...],
    built: tuple[BuiltTarget, ...],
) -> tuple[MissingTarget, ...]:
    """Return why targets are missing: the newest reason of each that was not built."""
    targets_built = {entry.target for entry in built}
    missing = {entry.target: entry for entry in (*before, *now)}
    return tuple(entry for name, entry in missing.items() if name not in targets_built)
