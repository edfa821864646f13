"""Audits made again of an artifact's files: whatever was edited is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from engines.audit import audit_layers
from engines.build import main
from engines.graph import read_graph
from engines.stored_audit import BUILD_NAME, read_audit, read_audits
from export.manifest import Manifest, ManifestError, hash_file
from tests.engines.conftest import Writer, describe

pytest.importorskip("tensorrt_rtx", reason="the audits are those of engines that it builds")
pytestmark = pytest.mark.trt_rtx
LAYERS, ENGINE = "layers_trt-rtx.json", "trt-rtx-sm89.engine"


@pytest.fixture(scope="module")
def built(segmenter: Writer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a real engine and, as export.build writes it, what its GEMMs run in."""
    folder = tmp_path_factory.mktemp("stored")
    model = onnx.load(segmenter())
    helper.set_model_props(model, describe("fp16").metadata())
    onnx.save(model, folder / "m.onnx")
    options = ["--target", "trt-rtx", "--compute-capability", "SM89"]
    assert main(["--onnx", str(folder / "m.onnx"), "--out", str(folder / "art"), *options]) == 0
    artifact = folder / "art"
    document = json.loads((artifact / LAYERS).read_text())
    products = audit_layers(document, read_graph(artifact / "model.onnx")).products
    rows = {name: {"asked": asked, "obtained": got} for name, (asked, got) in products.items()}
    (artifact / BUILD_NAME).write_text(json.dumps({ENGINE: rows}))
    edit(artifact, "manifest.json", lambda v: v["files"].update({BUILD_NAME: ""}), rehash=True)
    return artifact


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "artifact"))


def edit(
    folder: Path, name: str, how: Callable[[dict[str, Any]], object], rehash: bool = True
) -> None:
    """Change a JSON file of an artifact, and with `rehash` the manifest's hashes to fit."""
    values = json.loads((folder / name).read_text())
    how(values)
    (folder / name).write_text(json.dumps(values))
    if rehash:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {file: hash_file(folder / file) for file in manifest["files"]}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_built_is_read_as_it_was_audited(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert read_audits(folder, manifest) == manifest
    entry = manifest.targets[0]
    assert entry.audit is not None
    assert read_audit(folder, manifest, entry) == entry.audit
    assert entry.audit.fused_attentions == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(kernels=7), r"the manifest says kernels 7, its files say \d+; one"),
        (lambda a: a.update(traffic_mb=0.1), "the manifest says traffic_mb 0.1, its files say"),
        (lambda a: a.update(activation_mb=0.1), "the manifest says activation_mb 0.1, its files"),
        (lambda a: a.update(float_sums=29), "the manifest says float_sums 29, its files say"),
        (lambda a: a.update(unfused=["x"]), r"the manifest says unfused \('x',\), its files say"),
        (lambda a: a["parts"]["tail"].update(kernels=0), r"says parts\.tail\.kernels 0, its files"),
        (lambda a: a["gemm_datatypes"].update(FP8=3), r"says gemm_datatypes\.FP8 3, its files"),
    ],
)
def test_an_edited_figure_of_the_manifest_is_named(folder: Path, change: Any, message: str) -> None:
    edit(folder, "manifest.json", lambda values: change(values["targets"][0]["audit"]))
    with pytest.raises(ManifestError, match=message):
        read_audits(folder, Manifest.read(folder))


def without_first_gemm(document: dict[str, Any]) -> None:
    document["Layers"] = [
        layer for layer in document["Layers"] if "encoder/0/fc1" not in json.dumps(layer)
    ]


def test_an_edited_layer_list_shows_even_where_its_hash_was_made_to_fit(folder: Path) -> None:
    edit(folder, LAYERS, without_first_gemm, rehash=False)
    with pytest.raises(ManifestError, match=r"layers_trt-rtx\.json' was changed after"):
        read_audits(folder, Manifest.read(folder))
    edit(folder, LAYERS, without_first_gemm)
    with pytest.raises(ManifestError, match=r"the manifest says kernels \d+, its files say"):
        read_audits(folder, Manifest.read(folder))


@pytest.mark.parametrize("text", ["[1]", "{", '{"Layers": 5}', '{"Layers": [{"Inputs": 3}]}'])
def test_a_file_that_is_no_layer_list_is_one_error(folder: Path, text: str) -> None:
    (folder / LAYERS).write_text(text)
    edit(folder, "manifest.json", lambda values: None)
    with pytest.raises(ManifestError, match=r"layers_trt-rtx\.json'"):
        read_audits(folder, Manifest.read(folder))


def test_what_gemms_are_said_to_run_in_is_compared(folder: Path) -> None:
    edit(folder, BUILD_NAME, lambda v: v[ENGINE]["encoder/0/fc1"].update(obtained="FP8"))
    with pytest.raises(ManifestError, match=r"build\.json says encoder/0/fc1\.obtained 'FP8', its"):
        read_audits(folder, Manifest.read(folder))


def test_a_swapped_engine_of_equal_size_is_found(folder: Path) -> None:
    data = bytearray((folder / ENGINE).read_bytes())
    data[-1] ^= 1
    (folder / ENGINE).write_bytes(data)
    with pytest.raises(ManifestError, match=r"sm89\.engine' was changed after it was built"):
        read_audits(folder, Manifest.read(folder))


def test_an_edit_of_all_that_belongs_together_shows_in_the_digest(folder: Path) -> None:
    digest = Manifest.read(folder).digest
    edit(folder, LAYERS, without_first_gemm)
    with pytest.raises(ManifestError, match=f"expected digest {digest}, got "):
        Manifest.read(folder, digest)
