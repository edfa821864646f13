"""The self-test: what it reads, what it counts, and what it lets pass."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.runtime import open_runtime
from engines.segment import main
from engines.self_test import read_golden
from export.manifest import Manifest, ManifestError, hash_file
from segvit.cli import run_main
from tests.engines.conftest import Writer


def write_golden(folder: Path, data: bytes, random_weights: bool = False) -> None:
    """Put a golden.npz into an artifact, listed in its manifest."""
    (folder / "golden.npz").write_bytes(data)
    manifest = Manifest.read(folder)
    files = manifest.files | {"golden.npz": hash_file(folder / "golden.npz")}
    model = replace(manifest.model, random_weights=random_weights)
    replace(manifest, files=files, model=model).write(folder)


def pack(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def label(folder: Path, images: np.ndarray) -> np.ndarray:
    """Return what the artifact itself makes of images."""
    with open_runtime(folder, threads=1) as runtime:
        outputs = np.concatenate([runtime.infer(image[None]) for image in images])
    return (outputs if outputs.ndim == 3 else outputs.argmax(axis=1)).astype(np.int32)


@pytest.fixture
def folder(artifact: Writer, images: np.ndarray) -> Path:
    """An artifact whose golden labels are its own."""
    folder = artifact(batch="batch")
    write_golden(folder, pack(images=images, labels=label(folder, images)))
    return folder


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        run_main(main, [*map(str, arguments), "--self-test"])
    return int(end.value.code or 0)


def test_labels_that_agree_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--artifact", folder) == 0
    assert capsys.readouterr().out.splitlines() == [
        "testing fp32 on ort with 3 images",
        *(f"image {index}: 1.00000 of labels equal" for index in range(3)),
        "all: 1.00000 of labels equal; the gate of fp32 is 0.9999",
    ]


def test_json_holds_every_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--artifact", folder, "--json", "--target", "ort") == 0
    assert json.loads(capsys.readouterr().out) == {
        "artifact": str(folder), "target": "ort", "precision": "fp32",
        "images": [1.0, 1.0, 1.0], "agreement": 1.0, "gate": 0.9999,
        "lost_class": None,
    }  # fmt: skip


def test_labels_below_the_gate_fail(
    folder: Path, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = label(folder, images)
    labels[1, 0, :32] ^= 1  # 32 of 12288 pixels: 0.9974 of them are equal
    write_golden(folder, pack(images=images, labels=labels))
    assert run("--artifact", folder, "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == [1.0, 1 - 32 / 4096, 1.0]
    assert printed.err.splitlines()[-1].startswith(
        "error: target 'ort' gives 0.99740 of the reference's labels in fp32, the gate is 0.9999;"
    )


@pytest.mark.parametrize(("pixels", "code"), [(29, 0), (30, 1)])
def test_a_class_that_is_lost_whole_fails(
    folder: Path, images: np.ndarray, pixels: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.9976 of the labels are right, which any INT8 engine may have; a class is gone."""
    labels = label(folder, images)
    manifest = Manifest.read(folder)
    absent = next(k for k in range(len(manifest.classes)) if k not in labels)
    labels[2].flat[:pixels] = absent
    replace(manifest, precision="int8").write(folder)
    write_golden(folder, pack(images=images, labels=labels))
    assert run("--artifact", folder) == code
    message = f"error: target 'ort' loses class '{manifest.classes[absent]}' whole"
    assert (message in capsys.readouterr().err) == bool(code)


def test_random_weights_are_not_gated(
    folder: Path, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    write_golden(folder, pack(images=images, labels=label(folder, images) ^ 1), True)
    assert run("--artifact", folder) == 0
    assert "all: 0.00000 of labels equal; random weights: labels are near-ties, nothing is " in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("options", [{"scores": True}, {"batch": 2}])
def test_scores_and_fixed_batches_are_compared(
    folder: Path, artifact: Writer, images: np.ndarray, options: dict[str, Any]
) -> None:
    golden = (folder / "golden.npz").read_bytes()
    folder.rename(folder.with_name("labels"))
    other = artifact(**options)  # of the same weights
    write_golden(other, golden)
    assert run("--artifact", other) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: b"", "is damaged"),
        (lambda x, y: b"no archive", "is damaged"),
        (lambda x, y: pack(images=x, labels=y)[:-30], "is damaged"),
        (lambda x, y: pickle.dumps({"images": x}), "is damaged: .*allow_pickle"),
        (lambda x, y: pack(images=x), "is damaged: .*labels"),
        (lambda x, y: pack(images=x, labels=np.array([None, 1])), "is damaged: Object arrays"),
        (lambda x, y: pack(images=x, labels=y.astype(np.uint8)), "expected labels of int32"),
        (lambda x, y: pack(images=x / 255, labels=y), "expected images of uint8 .* got float64"),
        (lambda x, y: pack(images=x[:, :32], labels=y), r"images of uint8 \(n, 64, 64, 3\), got"),
        (lambda x, y: pack(images=x, labels=y[:2]), r"labels of int32 \(n, 64, 64\), got .*\(2, 6"),
        (lambda x, y: pack(images=x[:0], labels=y[:0]), r"got uint8 \(0, 64, 64, 3\)"),
        (lambda x, y: pack(images=x[0, 0, 0, 0], labels=y), r"got uint8 \(\)"),
    ],
)
def test_a_damaged_golden_file_is_one_error(
    folder: Path,
    images: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[np.ndarray, np.ndarray], bytes],
    message: str,
) -> None:
    labels = label(folder, images)
    write_golden(folder, spoil(images, labels))
    with pytest.raises(ManifestError, match=message):
        read_golden(folder, Manifest.read(folder))
    assert run("--artifact", folder) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: '{folder / 'golden.npz'}' ")
    assert error.count("\n") == 1
    write_golden(folder, pack(images=images, labels=labels))
    assert run("--artifact", folder) == 0


def test_a_flipped_bit_in_the_middle_is_one_error(folder: Path, images: np.ndarray) -> None:
    data = bytearray((folder / "golden.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "golden.npz").write_bytes(data)
    with pytest.raises(ManifestError, match=r"golden\.npz' was changed after it was built"):
        read_golden(folder, Manifest.read(folder))
    write_golden(folder, bytes(data))
    with pytest.raises(ManifestError, match=r"golden\.npz' is damaged"):
        read_golden(folder, Manifest.read(folder))
    (folder / "golden.npz").unlink()
    with pytest.raises(ManifestError, match=r"golden\.npz' is missing"):
        read_golden(folder, Manifest.read(folder))


def test_no_golden_file_and_no_such_precision_are_named(
    artifact: Writer, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact()
    assert run("--artifact", folder) == 1
    assert "golden.npz' is not in the manifest" in capsys.readouterr().err
    write_golden(folder, pack(images=images, labels=label(folder, images)))
    replace(Manifest.read(folder), precision="int4").write(folder)
    assert run("--artifact", folder) == 1
    assert "precision 'int4' of the manifest is unknown; expected one of: fp32" in (
        capsys.readouterr().err
    )


def test_images_and_a_self_test_do_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--artifact", folder, "photo.png") == 2
    assert run("--artifact", folder, "--out", folder / "out") == 2
    assert capsys.readouterr().err.count("--self-test takes neither IMAGE nor --out") == 2
