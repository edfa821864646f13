"""`benchmarks.parity` on small artifacts: what it finds, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.parity import main
from engines.runtime import open_runtime
from export.manifest import BuiltTarget, hash_file
from export.reference import Reference
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.cli import run_main
from segvit.images import read_image, resize_image
from tests.engines.conftest import describe, write_segmenter
from tests.tiny_models import make_config, make_model

COUNT = ("--num-images", "3", "--resamples", "50")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 artifact, a copy of it, one in FP16, and what stands for their checkpoint."""
    folder = tmp_path_factory.mktemp("parity")
    save_checkpoint(make_model(make_config(num_classes=8)), folder / "model.safetensors")
    for precision in ("fp32", "fp16"):
        write_artifact(folder, precision)
    shutil.copytree(folder / "fp32", folder / "again")
    write_samples(folder)
    return folder


def write_artifact(folder: Path, precision: str) -> None:
    """Write a segmenter, the same but for its precision, as an artifact for ONNX Runtime."""
    path = folder / precision / "model.onnx"
    path.parent.mkdir()
    write_segmenter(path, precision)
    onnx.shape_inference.infer_shapes_path(path, path)
    model = replace(
        describe().model,
        random_weights=False,
        checkpoint_sha256=hash_file(folder / "model.safetensors"),
    )
    replace(
        describe(precision),
        model=model,
        files={"model.onnx": hash_file(path)},
        targets=(BuiltTarget("ort", onnxruntime.__version__, (), "model.onnx"),),
        command=f"python -m export.build --{precision}",
    ).write(path.parent)


def write_samples(folder: Path) -> None:
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        shape = (48 + 16 * index, 64)
        cv2.imwrite(str(images / f"{index}.png"), rng.integers(0, 256, (*shape, 3), np.uint8))
        cv2.imwrite(str(masks / f"{index}.png"), rng.integers(0, 8, shape, np.uint8))
    (folder / "classes.txt").write_text("\n".join(f"class {index}" for index in range(8)))


def options(folder: Path, *names: str) -> list[str]:
    return ["--artifact", *(str(folder / name) for name in names), *COUNT]


def test_report_against_an_artifact(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = ("--images", str(folder / "images"), "--masks", str(folder / "masks"),
             "--classes", str(folder / "classes.txt"))  # fmt: skip
    out = tmp_path / "parity.json"
    assert main([*options(folder, "fp16", "again"), *masks, "--reference", str(folder / "fp32"),
                 "--bisect", "--bisect-images", "1", "--json", "--out", str(out)]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert report["schema"] == 1
    assert (report["data"]["truth"], report["data"]["size"]) == ("masks", "64x64")
    half, again = report["artifacts"]
    assert (half["precision"], half["target"], half["images"]) == ("fp16", "ort", 3)
    assert half["pixels"] == 3 * 64 * 64
    assert 0.9 < half["pixel_agreement"] < 1
    assert half["changed"]["pixels"] == round((1 - half["pixel_agreement"]) * half["pixels"])
    assert again["pixel_agreement"] == 1
    assert again["miou_delta"] == 0
    assert again["miou"] == pytest.approx(1 / 15, abs=0.05)  # by chance, of 8 classes
    of_half, of_again = report["bisect"]
    assert of_again["first"] is None
    assert max(layer["relative_rms"] for layer in of_again["layers"]) == 0
    assert 0 < max(layer["relative_rms"] for layer in of_half["layers"]) < 0.02


def test_two_builds_of_one_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(folder, "fp32", "again"), "--images", str(folder / "images"),
                 "--checkpoint", str(folder / "model.safetensors"), "--json"]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    (pair,) = report["stability"]
    assert pair["pixels_different"] == 0
    assert pair["files_different"] == []
    assert "model.onnx" in pair["files_equal"]
    assert report["reference"] == "model.safetensors in PyTorch, fp32"
    assert report["data"]["truth"] == "reference"
    reference = Reference(load_checkpoint(folder / "model.safetensors"), (64, 64))
    # The graph is another model's, so that agreement by itself proves nothing.
    equal = [count_equal(reference, folder / "fp32", path) for path in chosen(folder)]
    assert report["artifacts"][0]["pixel_agreement"] == pytest.approx(sum(equal) / 3 / 64**2)
    assert report["artifacts"][0]["miou_reference"] == 1


def chosen(folder: Path) -> list[Path]:
    """Return the three images of four that seed 0 draws."""
    paths = sorted((folder / "images").iterdir())
    return [paths[index] for index in np.random.default_rng(0).permutation(4)[:3]]


def count_equal(reference: Reference, artifact: Path, path: Path) -> int:
    image = resize_image(read_image(path), (64, 64))[None]
    with open_runtime(artifact, "ort") as runtime:
        return int((runtime.infer(image) == reference(image).labels).sum())


def test_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(folder, "fp16", "again", "fp32"), "--bisect", "--bisect-images", "1",
                 "--reference", str(folder / "fp32"), "--images", str(folder / "images"),
                 "--bisect-threshold", "1e-7"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "fp16, ort" in printed
    assert "first off by more than 1.0e-07 relative RMS: patch_embed/" in printed
    assert "is off by more than 1.0e-07" in printed
    assert "no truth for these images" in printed
    assert "% interval" in printed


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, other = tmp_path / "other.safetensors", tmp_path / "other"
    save_checkpoint(make_model(make_config(num_classes=8), seed=9), weights)
    shutil.copytree(folder / "fp32", other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["model"]["name"] = "tiny_other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    for seed in range(2):
        manifest["model"]["random_weights"] = True
        manifest["command"] = f"python -m export.build --random-weights --seed={seed}"
        shutil.copytree(other, tmp_path / f"seed{seed}")
        (tmp_path / f"seed{seed}" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "empty").mkdir()
    images, fp32 = ("--images", str(folder / "images")), ("--reference", str(folder / "fp32"))
    (tmp_path / "two.txt").write_text("a\nb")
    masks = ("--masks", str(folder / "masks"), "--classes", str(tmp_path / "two.txt"))
    for arguments, code, message in (
        ((str(other), *fp32), 1, "another model, expected tiny, got tiny_other"),
        (
            ("--artifact", str(tmp_path / "seed0"), str(tmp_path / "seed1")),
            1,
            "another seed of random weights, expected --seed=0, got --seed=1",
        ),
        (("--target", "trt", *fp32), 1, "holds no trt engine"),
        (("--images", str(tmp_path / "empty"), *fp32), 1, "holds no images"),
        ((*images, *masks, *fp32), 1, "names 2 classes, model 'tiny' has 8"),
        (images, 1, "give an FP32 artifact of the same weights with --reference, or the weights"),
        ((*images, "--checkpoint", str(weights)), 1, "is not the one that"),
        ((*images, "--reference", str(folder / "fp16")), 1, "is in fp16, expected fp32"),
        (("--bisect",), 2, "needs --reference"),
        (("--masks", "m"), 2, "--masks and --classes go together"),
        (("--resamples", "0"), 2, "must be at least 1"),
    ):
        head = ["--artifact", str(folder / "fp16")]
        with pytest.raises(SystemExit) as stopped:
            run_main(main, [*head, *arguments])
        assert stopped.value.code == code, message
        assert message in capsys.readouterr().err
