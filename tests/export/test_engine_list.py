"""Engines beside those that an artifact was built with: one view, and nothing else is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.engine_list import EngineList, leave_out_replaced
from export.manifest import (
    BuiltTarget,
    Manifest,
    ManifestError,
    MissingTarget,
    ModelInfo,
    TensorSpec,
    hash_file,
    read_verified,
    verify_file,
)

ADDED = ("trt-sm90.engine", "layers_trt.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of one graph, and an engine that was added to it."""
    for name in ("model.onnx", *ADDED):
        (tmp_path / name).write_bytes(name.encode())
    Manifest(
        version="0.1.0",
        model=ModelInfo("tiny", 1, "Apache-2.0"),
        precision="fp16",
        input=TensorSpec("image", "uint8", ("batch", 16, 16, 3)),
        outputs=(TensorSpec("labels", "uint8", ("batch", 16, 16)),),
        classes=("a",),
        palette=((0, 0, 0),),
        files={"model.onnx": hash_file(tmp_path / "model.onnx")},
        targets=(BuiltTarget("ort", "1", (), "model.onnx"),),
        not_built=(MissingTarget("trt", "no GPU"), MissingTarget("trt-rtx", "not installed")),
        warnings=("built",),
    ).write(tmp_path)
    EngineList(
        manifest=hash_file(tmp_path / "manifest.json"),
        batch=(1, 2, 4),
        files={name: hash_file(tmp_path / name) for name in ADDED},
        targets=(
            BuiltTarget("trt", "11", ("SM90",), ADDED[0], layers=ADDED[1]),
            BuiltTarget("ort", "2", (), "model.onnx"),
        ),
        warnings=("added",),
    ).write(tmp_path, ["model.onnx"])
    return tmp_path


Edit = Callable[[Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def edit(folder: Path) -> Edit:
    """A function that changes the list's JSON by hand."""

    def change(how: Callable[[dict[str, Any]], object]) -> None:
        path = folder / "engines.json"
        values = json.loads(path.read_text())
        how(values)
        path.write_text(json.dumps(values))

    return change


def test_both_are_read_as_one(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert [(entry.target, entry.version) for entry in manifest.targets] == [
        ("trt", "11"), ("ort", "2"),
    ]  # fmt: skip
    assert [entry.target for entry in manifest.not_built] == ["trt-rtx"]
    assert manifest.warnings == ("built", "added")
    assert manifest.batch == (1, 2, 4)
    for name in ("model.onnx", *ADDED):
        assert read_verified(folder, name, manifest) == name.encode()
    (folder / ADDED[0]).write_bytes(b"another")
    with pytest.raises(ManifestError, match=r"trt-sm90\.engine' was changed after"):
        verify_file(folder, ADDED[0])


def test_the_digest_is_that_of_the_manifest_alone(folder: Path, edit: Edit) -> None:
    digest = hash_file(folder / "manifest.json")
    assert Manifest.read(folder, digest).digest == digest
    edit(lambda values: values.update(warnings=[]))
    assert Manifest.read(folder, digest).digest == digest
    (folder / "engines.json").unlink()
    alone = Manifest.read(folder, digest)
    assert (alone.digest, alone.added, alone.batch) == (digest, None, (1, 1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema=2), "another version: expected schema 1, got 2"),
        (lambda v: v.update(manifest="c" * 64), f"belongs to another artifact: .* got {'c' * 64}"),
        (lambda v: v.pop("manifest"), "belongs to another artifact: .* got None"),
        (lambda v: v.pop("batch"), "batch is missing"),
        (lambda v: v.update(batch=[4, 2, 1]), "batch: expected 1 <= min"),
        (lambda v: v["files"].update({"../x": "a" * 64}), "file name '../x' is refused"),
        (lambda v: v["files"].update({ADDED[0]: "00"}), "expected a sha256, got '00'"),
        (lambda v: v["targets"][0].update(file="b.engine"), "names 'b.engine', which files lacks"),
        # What the digest binds cannot be replaced, nor may another graph or image slip in.
        (lambda v: v["files"].update({"model.onnx": "a" * 64}), "'model.onnx', which manifest"),
        (lambda v: v["files"].update({"golden.npz": "a" * 64}), "'golden.npz', which no target"),
        (lambda v: v["targets"][1].update(file=ADDED[0]), "target 'ort' names 'trt-sm90.engine'"),
        (lambda v: v["targets"][0].update(file="model.onnx"), "'trt' names 'model.onnx', which m"),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_refused_with_the_fix(
    folder: Path, edit: Edit, change: Any, message: str
) -> None:
    edit(change)
    with pytest.raises(ManifestError, match=rf"engines\.json' .*{message}") as error:
        Manifest.read(folder)
    fix = f"delete it and build again: python -m engines.build --artifact {folder}"
    assert str(error.value).endswith(fix)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\x00\xff", ""])
def test_text_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "engines.json").write_text(text)
    with pytest.raises(ManifestError, match=r"engines\.json' is damaged: .*; delete it"):
        Manifest.read(folder)


def test_an_engine_replaces_an_added_one_and_leaves_no_name_behind() -> None:
    first = BuiltTarget("trt", "11", ("SM90",), *ADDED[:1], layers="old.json")
    again = BuiltTarget("trt", "12", ("SM90",), *ADDED[:1], layers=ADDED[1])
    digests = {ADDED[0]: "a" * 64, "old.json": "b" * 64}
    engines = EngineList("c" * 64, (1, 1, 1)).with_targets((first,), (), digests, ("'x': said",))
    missing = (MissingTarget("trt-rtx", "not installed"),)
    warned = (f"'{ADDED[0]}': first",)
    engines = engines.with_targets((), missing, {}, warned)
    assert engines.targets == (first,)
    engines = engines.with_targets((again,), (), dict.fromkeys(ADDED, "d" * 64), ())
    assert engines.targets == (again,)
    assert engines.files == dict.fromkeys(ADDED, "d" * 64)
    assert (engines.not_built, engines.warnings) == (missing, ("'x': said",))


def test_an_engine_for_the_same_gpus_takes_the_place_of_an_older_one() -> None:
    older = [
        BuiltTarget("trt-rtx", "1", ("SM86", "SM89"), "both.engine"),
        BuiltTarget("trt-rtx", "1", ("SM89",), "one.engine"),
        BuiltTarget("trt", "10", ("SM89",), "trt.engine"),
        BuiltTarget("ort", "1", (), "model.onnx"),
    ]
    newer = BuiltTarget("trt-rtx", "2", ("SM89", "SM120"), "new.engine")
    assert leave_out_replaced(tuple(older), (newer,)) == (older[0], *older[2:])
