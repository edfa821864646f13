from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from engines.runtime import find_entry, open_runtime
from engines.target import Target, cannot_run_reason
from engines.trt_runtime import check_version
from export.manifest import BuiltTarget, Manifest, ManifestError, hash_file

Writer = Callable[..., Path]
NO_GPU = cannot_run_reason(Target.TRT_RTX) is not None


def add_engine(folder: Path, *entries: BuiltTarget) -> Manifest:
    """Add engine files, of no use but for their hashes, to an artifact."""
    for entry in entries:
        (folder / entry.file).write_bytes(b"engine of " + entry.file.encode())
    files = {entry.file: hash_file(folder / entry.file) for entry in entries}
    manifest = Manifest.read(folder).with_targets(entries, (), files)
    manifest.write(folder)
    return manifest


RTX = BuiltTarget("trt-rtx", "1.7.1.116", ("SM86", "SM89"), "trt-rtx-sm86-sm89.engine")


def test_labels_are_those_of_a_bare_session(artifact: Writer, images: np.ndarray) -> None:
    folder = artifact()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    expected = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    with open_runtime(folder) as runtime:
        assert runtime.target is Target.ORT
        assert runtime.input.shape == (1, 64, 64, 3)
        assert runtime.classes[0] == "water"
        assert len(runtime.palette) == len(runtime.classes) == 8
        got = np.concatenate([runtime.infer(image[None]) for image in images])
    assert got.dtype == np.uint8
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 1


def test_scores_come_as_scores(artifact: Writer, images: np.ndarray) -> None:
    with open_runtime(artifact(scores=True)) as runtime:
        assert runtime.infer(images[:1]).shape == (1, 8, 64, 64)
        assert runtime.infer(images[:1]).dtype == np.float32


def test_a_dynamic_batch_takes_its_range(artifact: Writer, images: np.ndarray) -> None:
    with open_runtime(artifact(batch="batch")) as runtime:
        assert runtime.batch == (1, 2, 4)
        together = runtime.infer(images)
        apart = np.concatenate([runtime.infer(image[None]) for image in images])
    assert np.array_equal(together, apart)


def test_half_precision_runs_on_the_cpu(artifact: Writer, images: np.ndarray) -> None:
    with open_runtime(artifact(precision="fp16"), "ort", "cpu", threads=1) as runtime:
        assert runtime.infer(images[:1]).shape == (1, 64, 64)


def test_changed_external_data_is_refused(artifact: Writer, images: np.ndarray) -> None:
    folder = artifact()
    path, data = folder / "model.onnx", folder / "model.onnx.data"
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=100
    )
    files = {name.name: hash_file(name) for name in (path, data)}
    replace(Manifest.read(folder), files=files).write(folder)
    with open_runtime(folder) as runtime:
        runtime.infer(images[:1])
    with data.open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(ManifestError, match=r"model\.onnx\.data' was changed"):
        open_runtime(folder)


def test_no_artifact_no_runtime(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no artifact folder"):
        open_runtime(tmp_path / "nothing")


def test_a_manifest_of_another_version_is_refused(artifact: Writer) -> None:
    folder = artifact()
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "schema": 0}))
    with pytest.raises(ManifestError, match="expected schema 1, got 0; build the artifact again"):
        open_runtime(folder)


def test_a_target_not_built_names_the_command(artifact: Writer) -> None:
    folder = artifact()
    message = (
        f"holds no trt-rtx engine, only ort; build it: python -m engines.build --artifact {folder}"
    )
    with pytest.raises(ValueError, match=message):
        open_runtime(folder, "trt-rtx")
    with pytest.raises(ValueError, match="target 'cuda' is unknown"):
        open_runtime(folder, "cuda")


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_a_target_that_cannot_run_here_is_an_error_or_passed_over(artifact: Writer) -> None:
    folder = artifact()
    add_engine(folder, RTX)
    with pytest.raises(ValueError, match=r"'trt-rtx' cannot run here: .* an NVIDIA GPU"):
        open_runtime(folder, "trt-rtx")
    with open_runtime(folder) as runtime:
        assert runtime.target is Target.ORT
        assert runtime.notes[0] == "trt: not built"
        assert runtime.notes[1].startswith("trt-rtx: ")


def test_an_engine_changed_by_one_byte_is_refused(artifact: Writer) -> None:
    folder = artifact()
    add_engine(folder, RTX)
    data = bytearray((folder / RTX.file).read_bytes())
    data[5] ^= 1
    (folder / RTX.file).write_bytes(data)
    with pytest.raises(ManifestError, match=r"sm89\.engine' was changed after it was built: exp"):
        open_runtime(folder, "trt-rtx")


def test_nothing_that_runs_here_lists_why(artifact: Writer) -> None:
    folder = artifact()
    replace(Manifest.read(folder), targets=()).write(folder)
    message = "holds nothing that runs here: trt: not built; trt-rtx: not built; ort: not built"
    with pytest.raises(ValueError, match=message):
        open_runtime(folder)


def test_an_engine_for_another_gpu_names_the_command(artifact: Writer) -> None:
    folder = artifact()
    manifest = add_engine(folder, RTX)
    assert find_entry(folder, manifest, Target.TRT_RTX, "SM89") == RTX
    message = r"engines for SM86, SM89, and this GPU is SM120; .* --compute-capability SM120"
    with pytest.raises(ValueError, match=message):
        find_entry(folder, manifest, Target.TRT_RTX, "SM120")


def test_an_engine_of_another_version_names_both(tmp_path: Path) -> None:
    check_version(tmp_path, RTX, "1.7.1.116")
    message = r"was built by trt-rtx 1\.7\.1\.116, installed is 1\.8\.0\.1; .* python -m engines"
    with pytest.raises(ValueError, match=message):
        check_version(tmp_path, RTX, "1.8.0.1")


@pytest.mark.parametrize("device", ["cuda", "tensorrt:1"])
def test_a_provider_that_onnxruntime_lacks_is_an_error(artifact: Writer, device: str) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has it")
    with pytest.raises(ValueError, match=rf"device '{device}.* needs ONNX Runtime's \w+Execution"):
        open_runtime(artifact(), device=device)


def test_a_provider_and_an_engine_do_not_go_together(artifact: Writer) -> None:
    folder = artifact()
    add_engine(folder, RTX)
    with pytest.raises(ValueError, match="--device cpu chooses ONNX Runtime's provider"):
        open_runtime(folder, "trt-rtx", "cpu")
