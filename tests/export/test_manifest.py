from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import (
    AuditSummary,
    BuiltTarget,
    Manifest,
    ManifestError,
    MissingTarget,
    ModelInfo,
    Parity,
    PartSummary,
    TensorSpec,
    hash_file,
    read_verified,
    stage_artifact,
    verify_file,
)

ENGINE = b"engine bytes"
AUDIT = AuditSummary(
    kernels=201,
    attentions=29,
    fused_attentions=29,
    traffic_mb=1115.0,
    activation_mb=168.8,
    gemm_datatypes={"Half": 108, "Float": 3},
    parts={"encoder": PartSummary(84, 661.0), "tail": PartSummary(6, None)},
    unfused=("head/0/Softmax",),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact folder with every field of its manifest in use."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "trt-rtx-sm89.engine").write_bytes(ENGINE)
    (folder / "layers_trt-rtx.json").write_text("{}")
    names = ("trt-rtx-sm89.engine", "layers_trt-rtx.json")
    Manifest(
        version="0.1.0",
        model=ModelInfo("vit_t_landcover", 3_000_000, "Apache-2.0", False, "a" * 64),
        precision="fp16",
        input=TensorSpec("image", "uint8", ("batch", 256, 256, 3)),
        outputs=(TensorSpec("labels", "uint8", ("batch", 256, 256)),),
        classes=("water", "tree – cover"),
        palette=((28, 92, 168), (20, 110, 50)),
        batch=(1, 4, 8),
        files={name: hash_file(folder / name) for name in names},
        targets=(BuiltTarget("trt-rtx", "1.7.1.116", ("SM89",), *names[:1], AUDIT, names[1], 2.5),),
        not_built=(MissingTarget("trt", "tensorrt is not installed"),),
        parity=Parity(8, 0.9998, 0.64, 0.6399, 0.0004, 0.002, {"gate": "fp16", "passed": True}),
        warnings=("random",),
        command="python -m export.build --fp16",
        versions={"onnx": "1.23.2"},
    ).write(folder)
    return folder


@pytest.fixture
def edit(folder: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """A function that changes the manifest's JSON by hand."""

    def change(how: Callable[[dict[str, Any]], object]) -> None:
        path = folder / "manifest.json"
        values = json.loads(path.read_text())
        how(values)
        path.write_text(json.dumps(values))

    return change


def test_what_was_written_is_read(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.targets[0].audit == AUDIT
    assert manifest.parity is not None
    assert manifest.parity.details == {"gate": "fp16", "passed": True}
    assert manifest.input.shape == ("batch", 256, 256, 3)
    copy = folder / "copy"
    manifest.write(copy)
    assert Manifest.read(copy) == manifest
    assert (copy / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_the_json_has_the_agreed_keys(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    assert {
        "schema", "version", "model", "precision", "input", "outputs", "classes", "palette",
        "files", "targets", "not_built", "parity",
    } <= set(values)  # fmt: skip
    assert {"name", "parameters", "licence", "random_weights", "checkpoint_sha256"} <= set(
        values["model"]
    )
    assert {"target", "version", "compute_capabilities", "file", "audit"} <= set(
        values["targets"][0]
    )
    assert {
        "kernels", "attentions", "fused_attentions", "traffic_mb", "activation_mb",
        "gemm_datatypes",
    } <= set(values["targets"][0]["audit"])  # fmt: skip
    assert {
        "images", "pixel_agreement", "miou_reference", "miou", "max_class_iou_drop",
        "max_score_error",
    } <= set(values["parity"])  # fmt: skip


def test_another_schema_is_refused_with_the_fix(folder: Path, edit: Any) -> None:
    edit(lambda values: values.update(schema=2))
    with pytest.raises(
        ManifestError, match=r"another version: expected schema 1, got 2; build"
    ) as e:
        Manifest.read(folder)
    assert f"python -m export.build --out {folder}" in str(e.value)


def test_a_field_of_a_later_version_is_ignored(folder: Path, edit: Any) -> None:
    before = Manifest.read(folder)
    edit(lambda values: values.update(later={"a": 1}))
    assert Manifest.read(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("model"), "model is missing"),
        (lambda v: v["model"].pop("licence"), r"model\.licence is missing"),
        (lambda v: v["model"].update(parameters="3M"), r"model\.parameters: expected a whole num"),
        (lambda v: v["model"].update(parameters=True), r"model\.parameters: expected a whole num"),
        (lambda v: v.update(classes="water"), "classes: expected a list, got 'water'"),
        (lambda v: v.update(batch=[1, 2]), "batch: expected 3 entries"),
        (lambda v: v.update(batch=[4, 2, 1]), "batch: expected 1 <= min"),
        (lambda v: v.update(palette=[[1, 2, 300]] * 2), "palette: expected channels of 0 to 255"),
        (lambda v: v.update(palette=[[1, 2, 3]]), "palette: expected a colour for each of the 2"),
        (lambda v: v.update(outputs=[]), "outputs: expected at least one"),
        (lambda v: v["input"].update(shape=[1, 2]), r"input: expected a shape"),
        (lambda v: v["files"].update({"a.txt": "00"}), "expected a sha256, got '00'"),
        (lambda v: v["targets"][0].update(file="b.engine"), "names 'b.engine', which files lacks"),
        (lambda v: v["parity"].update(miou=1e400), r"parity\.miou: expected a finite number"),
        (lambda v: v["targets"][0].update(audit=[]), r"targets\[0\]\.audit: expected an object"),
    ],
)  # fmt: skip
def test_damage_is_named(folder: Path, edit: Any, change: Any, message: str) -> None:
    edit(change)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.engine",
        "/etc/passwd",
        "a/../../b",
        "C:\\x.engine",
        "a\\..\\b",
        "",
        ".hidden",
        "a\0b",
    ],
)
def test_a_name_outside_the_folder_is_refused(folder: Path, edit: Any, name: str) -> None:
    def rename(values: dict[str, Any]) -> None:
        values["files"][name] = values["files"].pop("trt-rtx-sm89.engine")
        values["targets"][0]["file"] = name

    edit(rename)
    with pytest.raises(ManifestError, match=r"is refused: expected a plain name inside"):
        Manifest.read(folder)


def test_text_that_is_no_json_is_refused(folder: Path) -> None:
    for text in ("{", "[1]", "[" * 100_000, "\x00\xff", ""):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ManifestError, match="is damaged"):
            Manifest.read(folder)


def test_a_huge_manifest_is_refused_unread(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: takes no space
    with pytest.raises(ManifestError, match="expected at most 64 MiB, got more"):
        Manifest.read(folder)


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no artifact folder: it has no manifest\.json"):
        Manifest.read(tmp_path)


def test_a_file_as_built_is_verified(folder: Path) -> None:
    assert verify_file(folder, "trt-rtx-sm89.engine") == folder / "trt-rtx-sm89.engine"
    assert read_verified(folder, "trt-rtx-sm89.engine") == ENGINE


@pytest.mark.parametrize("check", [verify_file, read_verified])
def test_one_changed_byte_is_found(folder: Path, check: Any) -> None:
    path = folder / "trt-rtx-sm89.engine"
    expected = hash_file(path)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match="was changed after it was built: expected sha256") as e:
        check(folder, path.name)
    message = str(e.value)
    assert str(path) in message
    assert expected in message
    assert hash_file(path) in message
    assert f"python -m engines.build --artifact {folder}" in message


def test_a_missing_unlisted_or_outside_file_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match="is not in the manifest, which lists trt-rtx-sm89"):
        verify_file(folder, "other.engine")
    with pytest.raises(ManifestError, match="is refused: expected a plain name"):
        verify_file(folder, "../artifact/trt-rtx-sm89.engine")
    engine = folder / "trt-rtx-sm89.engine"
    outside = folder.parent / "outside.engine"
    engine.rename(outside)
    with pytest.raises(ManifestError, match="is missing though the manifest lists it"):
        verify_file(folder, engine.name)
    engine.symlink_to(outside)
    with pytest.raises(ManifestError, match=r"is a link to .*outside the artifact"):
        verify_file(folder, engine.name)


def test_targets_are_added_and_replaced(folder: Path) -> None:
    manifest = Manifest.read(folder)
    again = BuiltTarget("trt-rtx", "1.8", ("SM89",), "trt-rtx-sm89.engine")
    other = BuiltTarget("trt", "11.4", ("SM90",), "trt-sm90.engine")
    grown = manifest.with_targets((again, other), (), {"trt-sm90.engine": "b" * 64})
    assert grown.targets == (again, other)
    assert grown.not_built == ()
    assert set(grown.files) == {*manifest.files, "trt-sm90.engine"}


def test_two_targets_run_one_file(folder: Path) -> None:
    runs = [BuiltTarget(name, "1", (), "model.onnx") for name in ("ort", "openvino", "ort")]
    grown = Manifest.read(folder)
    for entry in runs:
        grown = grown.with_targets((entry,), (), {"model.onnx": "b" * 64})
    assert [entry.target for entry in grown.targets if entry.file == "model.onnx"] == [
        "openvino", "ort",
    ]  # fmt: skip


def test_metadata_describes_an_onnx_file(folder: Path) -> None:
    manifest = Manifest.read(folder)
    manifest = replace(manifest, attention="unfused")
    described = Manifest.from_metadata(manifest.metadata(), manifest.input, manifest.outputs)
    assert described.attention == "unfused"
    earlier = {name: text for name, text in manifest.metadata().items() if name != "attention"}
    described_earlier = Manifest.from_metadata(earlier, manifest.input, manifest.outputs)
    assert described_earlier.attention is None
    assert described.model == manifest.model
    assert described.classes == manifest.classes
    assert described.palette == manifest.palette
    assert described.files == {}
    with pytest.raises(ValueError, match=r"metadata lacks .*classes.*not made by python -m export"):
        Manifest.from_metadata({}, manifest.input, manifest.outputs)
    spoiled = {**manifest.metadata(), "classes": "{"}
    with pytest.raises(ValueError, match="is no JSON"):
        Manifest.from_metadata(spoiled, manifest.input, manifest.outputs)


def test_a_failed_stage_leaves_the_earlier_artifact(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def build() -> None:
        with stage_artifact(folder) as staged:
            (staged / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    with stage_artifact(folder) as staged:
        replace(Manifest.read(folder), files={}, targets=()).write(staged)
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ValueError, match=r"holds files but no manifest\.json"),
        stage_artifact(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path, folder: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(NotADirectoryError) as e, stage_artifact(blocked):
        pass
    assert e.value.filename == str(blocked)
    with pytest.raises(NotADirectoryError) as e:
        Manifest.read(folder).write(blocked)
    assert e.value.filename == str(blocked)


def test_a_full_disk_leaves_the_earlier_manifest(folder: Path) -> None:
    import resource
    import signal

    manifest, before = Manifest.read(folder), (folder / "manifest.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as e:
            manifest.write(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert e.value.filename == str(folder / "manifest.json")
    assert (folder / "manifest.json").read_bytes() == before
    assert not list(folder.glob(".*"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = ("model", "input", "outputs", "files", "targets", "parity", "batch", "palette")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1))
def test_whatever_stands_in_it_a_manifest_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    base = Manifest(
        version="1",
        model=ModelInfo("m", 1, "Apache-2.0"),
        precision="fp32",
        input=TensorSpec("image", "uint8", (1, 16, 16, 3)),
        outputs=(TensorSpec("labels", "uint8", (1, 16, 16)),),
        classes=("a",),
        palette=((0, 0, 0),),
    )
    base.write(folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    try:
        manifest = Manifest.read(folder)
    except ManifestError:
        return  # and nothing else escapes
    manifest.check()


def test_the_digest_is_the_sha256_of_the_manifest(folder: Path, edit: Any) -> None:
    digest = hash_file(folder / "manifest.json")
    for text in (digest, digest.upper()):
        assert Manifest.read(folder, text).digest == digest
    edit(lambda values: values.update(digest="0" * 64))  # what a file says of itself counts nothing
    changed = Manifest.read(folder)
    assert changed.digest == hash_file(folder / "manifest.json")
    with pytest.raises(ManifestError, match=f"expected digest {digest}, got {changed.digest}"):
        Manifest.read(folder, digest)


def test_another_digest_is_refused_before_anything_is_parsed(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="is not the artifact that was asked for"):
        Manifest.read(folder, "a" * 64)


@pytest.mark.parametrize("text", ["", "abc123", "a" * 63, "a" * 65, "g" * 64, "sha256:" + "a" * 64])
def test_part_of_a_digest_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match=f"got {len(text)} characters; builds print it"):
        Manifest.read(folder, text)
