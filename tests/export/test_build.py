"""`export.build` from the outside: what it writes, and what it says when it must not."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from engines.runtime import open_runtime
from engines.stored_audit import read_audits
from export.build import main
from export.build_options import parse_arguments, public_arguments
from export.manifest import Manifest
from export.passes.uint8_edges import Uint8EdgesPass
from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from segvit.prediction import predict_scores
from tests.tiny_models import GOLDEN, make_config, make_model, random_images

TINY = ("--num-images", "4", "--target", "ort", "--allow-foreign-images")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(make_model(make_config()), path)
    return path


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stopped:
        run_main(main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def _error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one error line of a command that must fail with exit code 1."""
    code, _, err = _run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.trt_rtx
def test_artifact_is_complete_and_labels_are_the_reference(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    code, printed, told = _run(
        capsys, "--checkpoint", checkpoint, "--fp32", *TINY, "--out", out, "--json",
        "--target", "trt-rtx", "--compute-capability", "SM89", "--allow-unfused",
    )  # fmt: skip
    assert code == 0
    manifest = Manifest.read(out)
    assert printed == (out / "manifest.json").read_text()
    assert f"digest {manifest.digest}" in told.splitlines()
    assert read_audits(out, manifest) == manifest
    assert manifest.model.name == "tiny_cascade"
    assert {entry.target for entry in manifest.targets} == {"ort", "trt-rtx"}
    assert set(manifest.files) == {file.name for file in out.iterdir()} - {"manifest.json"}
    assert manifest.parity is not None
    assert manifest.parity.pixel_agreement is not None
    assert manifest.parity.pixel_agreement >= 0.9999
    assert not manifest.model.random_weights
    with np.load(out / "golden.npz") as golden, open_runtime(out, "ort") as runtime:
        model = make_model(make_config())
        for image, labels in zip(golden["images"], golden["labels"], strict=True):
            expected = predict_scores(model, image[None]).argmax(axis=1)[0]
            assert (labels == expected).all()
            assert (runtime.infer(image[None])[0] == labels).mean() > 0.999


def test_onnx_carries_what_a_user_needs(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    code, _, _ = _run(
        capsys, "--checkpoint", checkpoint, "--batch", "1:2:4", "--output", "scores", "--out", out,
        *TINY,
    )  # fmt: skip
    assert code == 0
    model = onnx.load(out / "model.onnx")
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(make_config().class_names)
    assert json.loads(metadata["config"])["mean"] == [123.675, 116.28, 103.53]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    with open_runtime(out) as runtime:
        for count in (1, 3, 4):
            scores = runtime.infer(np.zeros((count, 64, 64, 3), dtype=np.uint8))
            assert scores.shape == (count, 7, 64, 64)


def test_bf16_is_verified_without_its_kernels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, _ = _run(
        capsys, "--random-weights", "--bf16", "--num-images", 1, "--out", tmp_path / "artifact",
        "--target", "trt-rtx", "--compute-capability", "SM89",
    )  # fmt: skip
    assert code == 0
    manifest = Manifest.read(tmp_path / "artifact")
    audit = manifest.targets[0].audit
    assert audit is not None
    assert audit.fused_attentions == audit.attentions == 17
    assert set(audit.gemm_datatypes) == {"BFloat16", "Half"}
    assert audit.budget.startswith("within 5% of the stored 129 kernels")
    assert manifest.model.random_weights
    assert manifest.parity is not None
    assert manifest.parity.pixel_agreement is None


def test_a_graph_that_tensorrt_does_not_document_is_no_artifact(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leave(_self: Uint8EdgesPass, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, modified=False)

    monkeypatch.setattr(Uint8EdgesPass, "call", leave)
    out = tmp_path / "artifact"
    options = ("--checkpoint", checkpoint, "--fp32", "--batch", "1:1:2", "--out", out)
    assert re.search(
        r"node '.*Shape' \(Shape\): reads uint8 'image', which may feed a Cast alone \(and 1 more",
        _error(capsys, *options, *TINY),
    )
    assert not out.exists()


def test_failed_parity_leaves_the_earlier_artifact(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    assert _run(capsys, "--checkpoint", checkpoint, "--out", out, *TINY)[0] == 0
    before = (out / "manifest.json").read_bytes()
    # The golden weights are random: near-ties make FP16 labels differ from FP32's.
    error = _error(capsys, "--checkpoint", GOLDEN / "base_s0.pth", "--fp16", "--out", out, *TINY)
    assert "fp16 labels agree with PyTorch's on 0.99" in error
    assert "the gate is 0.999" in error
    assert "the layers that diverge most begin with '" in error
    assert (out / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_interrupted_build_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    command = [sys.executable, "-m", "export.build", "--checkpoint", checkpoint, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), *TINY], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # the checkpoint is loaded: the work begins
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_command_that_is_kept_asks_for_the_fused_tail_again() -> None:
    kept = public_arguments(parse_arguments(["--fused-tail", "--target", "trt"]))
    assert parse_arguments(kept).fused_tail
    assert not parse_arguments(public_arguments(parse_arguments([]))).fused_tail


@pytest.mark.trt_rtx
def test_unfused_attention_needs_no_leave(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    code, _, _ = _run(
        capsys, "--checkpoint", checkpoint, "--fp16", "--attention", "unfused", "--out", out,
        "--num-images", 1, "--random-weights", "--target", "trt-rtx", "--compute-capability",
        "SM89",
    )  # fmt: skip
    assert code == 0
    manifest = Manifest.read(out)
    assert manifest.attention == "unfused"
    audit = manifest.targets[0].audit
    assert audit is not None
    assert (audit.fused_attentions, set(audit.gemm_datatypes)) == (0, {"Half", "Float"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fp16", "--bf16"), "not allowed with argument"),
        (("--attention", "fp16-sums"), "--attention: not with --fp32, whose attention is summed"),
        (("--int8", "--target", "ort", "--attention", "unfused"), "not with --float-type fp32"),
        (("--fp8", "--quantise-attention", "--attention", "unfused"), "which needs fused ones"),
        (("--model", "vit_x"), "invalid choice: 'vit_x'"),
        (("--size", "64x"), "expected HxW in pixels"),
        (("--batch", "4:2:1"), "expected 1 <= MIN <= OPT <= MAX, got '4:2:1'"),
        (("--tail-strips", "0"), "expected a whole number above 0"),
        (("--masks", "masks"), "--masks: only with --images, whose ground truth they are"),
        (("--images", "a", "--reduce-zero-label"), "--reduce-zero-label: only with --masks"),
        (("--fused-tail", "--output", "scores"), "--fused-tail: not with --output scores"),
        (("--fused-tail", "--mode", "slide", "--image-size", "9"), "not with --mode slide: it"),
        (("--fused-tail", "--resize-from", "9"), "--fused-tail: not with --resize-from: it"),
        (("--fused-tail", "--tail-strips", "4"), "--fused-tail: not with --tail-strips: it"),
    ],
)
def test_usage_errors(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = _run(capsys, *arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "vit_b_ade20k"), "'vit_b_ade20k' ships without weights: give --checkpoint"),
        (("--checkpoint", "missing.pth"), "checkpoint 'missing.pth' does not exist"),
        (("--size", "250"), "no multiple of the patch size 16; try --size 256x256"),
        (("--target", "openvx"), "target 'openvx' is unknown; expected one of: trt, trt-rtx, ort"),
        (("--target", "trt"), "target 'trt' cannot be built here"),
        (("--bf16", "--target", "ort"), "'ort' cannot be built in BF16: ONNX Runtime's CPU prov"),
        (("--fused-tail", "--target", "trt-rtx"), "--fused-tail: expected --target trt, which"),
        (("--fused-tail",), "alone takes the kernel, cannot be built here: tensorrt"),
        (("--tail-strips", "7"), "tail strips must cut 256 rows"),
        (("--images", "nowhere"), "nowhere"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    model = ("--random-weights",) if arguments[0] not in ("--model", "--checkpoint") else ()
    out = tmp_path / "artifact"
    assert message in _error(capsys, *model, *arguments, "--num-images", 1, "--out", out)
    assert not list(tmp_path.iterdir())


def test_damaged_checkpoints(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes((GOLDEN / "base_s0.pth").read_bytes()[:100_000])
    assert "truncated" in _error(capsys, "--checkpoint", truncated, "--out", out)
    broken = make_model(make_config())
    with torch.no_grad():
        broken.backbone.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    save_checkpoint(broken, tmp_path / "nan.safetensors")
    error = _error(capsys, "--checkpoint", tmp_path / "nan.safetensors", "--out", out)
    assert "NaN or infinite values in 'backbone.blocks.1.mlp.fc1.weight'" in error
    error = _error(
        capsys, "--checkpoint", GOLDEN / "shrunk_s0.pth", "--model", "vit_t_landcover", "--out", out
    )
    assert "does not fit 'vit_t_landcover'" in error
    backbone = {
        key.removeprefix("backbone.").replace("patch_embed.", "patch_embed.proj."): value
        for key, value in make_model(make_config()).state_dict().items()
        if key.startswith("backbone.")
    }
    torch.save(backbone, tmp_path / "backbone.pth")
    assert "holds a backbone only" in _error(
        capsys, "--checkpoint", tmp_path / "backbone.pth", "--out", out
    )
    assert not out.exists()


def test_output_folders_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    options = ("--checkpoint", checkpoint, *TINY, "--out")
    assert "is a file, expected a folder" in _error(capsys, *options, file)
    assert f"'{file}': is a file" in _error(capsys, *options, file / "artifact")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    assert "will not be replaced" in _error(capsys, *options, precious)
    assert (precious / "thesis.tex").exists()
    assert file.read_text() == "not a folder"


def test_a_disk_that_fills_up_keeps_the_earlier_artifact(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    command = [sys.executable, "-m", "export.build", "--checkpoint", checkpoint, *TINY]
    command = [*map(str, command), "--out", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def leave_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=leave_little_room, check=False
    )
    assert full.returncode == 1
    errors = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    limit = "File too large; write to a disk without that limit"
    assert errors == [f"error: '{out}': {limit}"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_read_only_folder(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    message = "Permission denied; change its permissions or write elsewhere"
    if os.access(locked, os.W_OK):  # the administrator may write anywhere but there
        locked, message = Path("/proc/self/task"), ""
    error = _error(capsys, "--checkpoint", checkpoint, *TINY, "--out", locked / "artifact")
    assert f"'{locked / 'artifact'}'" in error
    assert message in error
    assert not list(tmp_path.glob("locked/*"))


def test_images_of_the_user(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    """The masks are PyTorch's own labels of two of three images, and then all of one class."""
    for folder in ("images", "masks", "wrong"):
        (tmp_path / folder).mkdir()
    model = make_model(make_config())
    for index, image in enumerate(random_images(3, 64, 64)):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.ascontiguousarray(image))
        labels = predict_scores(model, image[None, ..., ::-1].copy()).argmax(axis=1)[0]
        if index < 2:
            cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), labels.astype(np.uint8))
    out = tmp_path / "artifact"
    options = ("--checkpoint", checkpoint, "--images", tmp_path / "images", "--target", "ort")
    code, printed, _ = _run(
        capsys, *options, "--masks", tmp_path / "masks", "--out", out, "--allow-foreign-images"
    )
    assert code == 0
    assert "3 images of" in printed
    assert f"2 with masks of '{tmp_path / 'masks'}'" in printed
    assert "no intervals: they mean little below 8 images" in printed
    assert "FOREIGN" not in printed
    manifest = Manifest.read(out)
    assert "there was nothing to allow" in manifest.warnings[0]
    parity = manifest.parity
    assert parity is not None
    assert (parity.images, parity.images_with_masks, parity.independent_pixels) == (3, 2, 3 * 4096)
    assert (parity.miou_reference, parity.miou) == (1.0, 1.0)
    assert not parity.foreign_images
    assert {entry.name for entry in parity.classes} | set(parity.unexercised_classes) == set(
        make_config().class_names
    )
    cv2.imwrite(str(tmp_path / "wrong" / "9.png"), labels.astype(np.uint8))
    error = _error(capsys, *options, "--masks", tmp_path / "wrong", "--out", tmp_path / "none")
    assert "expected names of images in" in error


def test_foreign_images_are_refused_or_said_last(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    error = _error(capsys, "--checkpoint", checkpoint, *TINY[:-1], "--out", out)
    assert "model 'tiny_cascade' would be verified on satellite tiles" in error
    code, printed, _ = _run(capsys, "--checkpoint", checkpoint, *TINY, "--out", out)
    assert code == 0
    assert printed.splitlines()[-1].startswith("FOREIGN IMAGES: model 'tiny_cascade' was verified")
    manifest = Manifest.read(out)
    assert manifest.parity is not None
    assert manifest.parity.foreign_images
    assert "--allow-foreign-images" in manifest.command
    assert any("was verified on satellite tiles" in warning for warning in manifest.warnings)
    assert any("no ground truth" in warning for warning in manifest.warnings)
