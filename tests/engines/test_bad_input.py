"""Whatever is handed to a runtime or lies in an artifact: one clear error, and it still works.

What the manifest itself refuses is in tests/export/test_manifest.py, concurrency in test_pool.py.
"""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.runtime import Runtime, open_runtime
from engines.target import Target, installed_version
from export.manifest import BuiltTarget, Manifest, ManifestError
from tests.engines.conftest import Writer

pytest.importorskip("openvino")
TARGETS = ("ort", "openvino")
SECONDS = 60  # before a test that hangs fails


def offer_openvino(folder: Path) -> Path:
    """Let OpenVINO run an artifact made for ONNX Runtime."""
    manifest = Manifest.read(folder)
    entry = BuiltTarget("openvino", installed_version(Target.OPENVINO), (), "model.onnx")
    replace(manifest, targets=(*manifest.targets, entry)).write(folder)
    return folder


@pytest.fixture
def folder(artifact: Writer) -> Path:
    """An artifact of batches of 1 to 4."""
    return offer_openvino(artifact(batch="batch"))


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runtime(folder: Path, target: str) -> Iterator[Runtime]:
    with open_runtime(folder, target, threads=1) as runtime:
        yield runtime


class Elsewhere:
    """An array that DLPack cannot bring to the CPU."""

    def __dlpack__(self, **_: object) -> object:
        raise BufferError("lies on a GPU")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


IMAGES: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda x: None, "images: expected a uint8 array of RGB pixels, got NoneType"),
    (lambda x: x.tolist(), "images: expected a uint8 array of RGB pixels, got list"),
    (lambda x: "photo.png", "images: expected a uint8 array of RGB pixels, got str"),
    (lambda x: Elsewhere(), "images: expected memory that the CPU reads, got a Elsewhere .*GPU"),
    (lambda x: x.astype(np.float32), "expected a uint8 array of RGB pixels, got float32"),
    (lambda x: x.astype(np.int8), "expected a uint8 array of RGB pixels, got int8"),
    (lambda x: x.astype(object), "expected a uint8 array of RGB pixels, got object"),
    (lambda x: x[0], r"images: expected shape \(B, 64, 64, 3\), got \(64, 64, 3\)"),
    (lambda x: x[0, 0, 0, 0], r"images: expected shape \(B, 64, 64, 3\), got \(\)"),
    (lambda x: x[:, :32], r"expected shape \(B, 64, 64, 3\), got \(3, 32, 64, 3\)"),
    (lambda x: x[..., :1], r"expected shape \(B, 64, 64, 3\), got \(3, 64, 64, 1\)"),
    (lambda x: x.transpose(0, 3, 1, 2), r"expected shape \(B, 64, 64, 3\), got \(3, 3, 64, 64\)"),
    (lambda x: x[:0], "images: expected a batch of 1 to 4, got 0"),
    (lambda x: np.repeat(x, 2, axis=0), "images: expected a batch of 1 to 4, got 6"),
]
OUTPUTS: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda x: x.astype(np.int32), r"out: expected uint8 of shape \(3, 64, 64\), got int32"),
    (lambda x: x[:2], r"out: expected uint8 of shape \(3, 64, 64\), got uint8 of .*\(2, 64, 64\)"),
    (lambda x: x[..., None], r"out: expected uint8 .* of shape \(3, 64, 64, 1\)"),
    (lambda x: x.tolist(), "out: expected an array to write to, got list"),
    (lambda x: x.transpose(0, 2, 1), "out: expected a contiguous array, got strides"),
    (lambda x: x[:, ::-1], "out: expected a contiguous array, got strides"),
    (lambda x: np.broadcast_to(x[:1], x.shape), "out: expected memory that can be written to"),
    (lambda x: memoryview(x.tobytes()).cast("B", (3, 64, 64)), "can be written to, got a read-on"),
    (lambda x: Elsewhere(), "out: expected memory that the CPU reads"),
]


def test_images_of_another_kind_are_refused(runtime: Runtime, images: np.ndarray) -> None:
    expected = runtime.infer(images)
    for change, message in IMAGES:
        with pytest.raises(ValueError, match=message):
            runtime.infer(change(images))
        with pytest.raises(ValueError, match=message):
            runtime.infer_async(change(images)).result(SECONDS)
        with pytest.raises(ValueError, match=message):
            list(runtime.stream([change(images)]))
    assert np.array_equal(runtime.infer(images), expected)


def test_outputs_that_do_not_fit_are_refused_untouched(
    runtime: Runtime, images: np.ndarray
) -> None:
    expected = runtime.infer(images)
    for change, message in OUTPUTS:
        out = np.full((3, 64, 64), 77, np.uint8)
        with pytest.raises(ValueError, match=message):
            runtime.infer(images, change(out))
        assert (out == 77).all()
    assert np.array_equal(runtime.infer(images), expected)


def test_memory_of_any_layout_is_read(runtime: Runtime, images: np.ndarray) -> None:
    expected = runtime.infer(images)
    padded = np.zeros((3, 70, 80, 4), np.uint8)
    padded[:, 3:67, 8:72, :3] = images
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    mirrored = np.ascontiguousarray(images[:, ::-1, :, ::-1])
    fixed = images.copy()
    fixed.flags.writeable = False
    for same in (
        padded[:, 3:67, 8:72, :3],
        planes.transpose(0, 2, 3, 1),
        mirrored[:, ::-1, :, ::-1],
        np.asfortranarray(images),
        fixed,
        memoryview(images),
    ):
        assert np.array_equal(runtime.infer(same), expected)
    alike = np.broadcast_to(images[:1], (4, 64, 64, 3))
    assert np.array_equal(runtime.infer(alike), np.repeat(expected[:1], 4, axis=0))
    assert np.array_equal(images[0], fixed[0])


def test_nothing_of_an_images_size_is_allocated_into_out(
    runtime: Runtime, images: np.ndarray
) -> None:
    out = np.empty((3, 64, 64), np.uint8)
    for same in (images, images[:, :, ::-1]):  # the latter is copied to memory that is kept
        runtime.infer(same, out)
        tracemalloc.start()
        try:
            for _ in range(3):
                runtime.infer(same, out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < out.nbytes


def test_torch_tensors_are_seen_where_they_are(runtime: Runtime, images: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    expected = runtime.infer(images)
    tensor, out = torch.from_numpy(images.copy()), torch.zeros((3, 64, 64), dtype=torch.uint8)
    assert runtime.infer(tensor, out) is out
    assert np.array_equal(out.numpy(), expected)
    assert np.array_equal(torch.from_dlpack(runtime.infer(tensor)).numpy(), expected)
    with pytest.raises(ValueError, match="expected a uint8 array of RGB pixels, got int32"):
        runtime.infer(tensor.int())


def test_outputs_are_the_callers_own(runtime: Runtime, images: np.ndarray) -> None:
    first = runtime.infer(images)
    kept = first.copy()
    out = np.empty_like(first)
    runtime.infer(images[::-1], out)
    assert np.array_equal(first, kept)
    assert np.array_equal(out[::-1], kept)


def test_threads_share_one_instance(runtime: Runtime, images: np.ndarray) -> None:
    expected = [runtime.infer(image[None])[0] for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not np.array_equal(runtime.infer(images[index][None])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index % 3,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not wrong


def test_instances_give_the_same(folder: Path, target: str, images: np.ndarray) -> None:
    with open_runtime(folder, target, threads=2, instances=2) as runtime:
        runtime.warm_up()
        expected = [runtime.infer(image[None]) for image in images]
        outputs = list(runtime.stream(images[index % 3][None] for index in range(12)))
    for index, output in enumerate(outputs):
        assert np.array_equal(output, expected[index % 3])


def test_closing_while_calls_are_in_flight(folder: Path, target: str, images: np.ndarray) -> None:
    runtime = open_runtime(folder, target, threads=1)
    expected = runtime.infer(images)
    futures = [runtime.infer_async(images) for _ in range(5)]
    runtime.close()
    runtime.close()
    assert all(np.array_equal(future.result(0), expected) for future in futures)
    for call in (lambda: runtime.infer(images), runtime.infer_async(images).result):
        with pytest.raises(ValueError, match="the runtime is closed; open it again"):
            call()
    with open_runtime(folder, target, threads=1) as again:
        assert np.array_equal(again.infer(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": 0}, "instances: expected at least 1, got 0"),
        ({"instances": -1}, "instances: expected at least 1, got -1"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"device": -1}, "device '-1': expected a GPU's number"),
        ({"device": "gpu"}, "device 'gpu': expected a GPU's number"),
        ({"target": "cuda"}, "target 'cuda' is unknown"),
    ],
)
def test_arguments_out_of_range(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_runtime(folder, **arguments)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["input"].update(shape=["batch", 32, 32, 3]), "its manifest lists image uint8"),
        (lambda v: v["input"].update(name="picture"), "has the tensors image uint8 .* lists pictu"),
        (lambda v: v["outputs"][0].update(dtype="int32"), "lists .* labels int32"),
        (lambda v: v["outputs"][0].update(dtype="nonsense"), "lists .* labels nonsense"),
        (lambda v: v["outputs"][0].update(shape=["batch", 1, 1]), "has the tensors .* 64, 64"),
        (lambda v: v["outputs"][0].update(shape=["batch", "H", "W"]), r"lists .* labels .*H, W"),
        (lambda v: v["targets"][-1].update(file="../model.onnx"), "is refused: expected a plain n"),
        (lambda v: v["files"].update({"model.onnx": "0" * 64}), "was changed after it was built"),
    ],
)
def test_a_manifest_that_lies_is_found_out(
    folder: Path, target: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_manifest(folder, change)
    with pytest.raises(ManifestError, match=message):
        open_runtime(folder, target)


def test_a_batch_that_the_file_does_not_take_is_found_out(artifact: Writer, target: str) -> None:
    folder = offer_openvino(artifact())
    edit_manifest(folder, lambda values: values.update(batch=[1, 1, 8]))
    with pytest.raises(ManifestError, match=r"\(1, 64, 64, 3\).* for batches of 1:1:8"):
        open_runtime(folder, target)


def test_a_missing_or_altered_file_is_named(folder: Path, target: str) -> None:
    path = folder / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ManifestError, match=r"model\.onnx' was changed after it was built"):
        open_runtime(folder, target)
    path.unlink()
    with pytest.raises(ManifestError, match=r"model\.onnx' is missing though the manifest lists"):
        open_runtime(folder, target)
    path.write_bytes(data)
    open_runtime(folder, target).close()


def test_a_manifest_of_a_gigabyte_is_refused_unread(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: takes no space
    with pytest.raises(ManifestError, match="expected at most 64 MiB, got more"):
        open_runtime(folder)
