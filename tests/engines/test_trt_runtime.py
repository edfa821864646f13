from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engines.cuda_resources import CudaResources, reserve_memory
from engines.gpu import GpuError, GpuOutOfMemoryError, import_cudart
from engines.runtime import Runtime, open_runtime
from engines.target import Target, cannot_run_reason, installed_version, own_compute_capability
from engines.trt_builder import BuildOptions, build_engine
from engines.trt_runtime import TrtEngine
from export.manifest import BuiltTarget, Manifest, hash_file
from tests.engines.conftest import describe
from tests.tolerances import GOLDEN_LABELS

Writer = Callable[..., Path]
TARGETS = [Target.TRT, Target.TRT_RTX]


def full_gpu(free: int) -> ModuleType:
    """A CUDA whose GPU has 8 GiB, of which `free` bytes are."""
    error = pytest.importorskip("cuda.bindings.runtime").cudaError_t
    return cast(
        ModuleType,
        SimpleNamespace(
            cudaSetDevice=lambda _: (error.cudaSuccess,),
            cudaMalloc=lambda _: (error.cudaErrorMemoryAllocation, 0),
            cudaHostAlloc=lambda _, __: (error.cudaErrorMemoryAllocation, 0),
            cudaHostAllocDefault=0,
            cudaGetLastError=lambda: (error.cudaErrorMemoryAllocation,),
            cudaMemGetInfo=lambda: (error.cudaSuccess, free, 8 << 30),
        ),
    )


def test_a_full_gpu_is_said_in_mib_with_what_to_do() -> None:
    message = (
        "'image' of 4 images takes 301 MiB of GPU memory, 12 of 8192 MiB are free; free some, "
        "open fewer instances, or build with a smaller --batch or with --tail-strips 4"
    )
    with pytest.raises(GpuOutOfMemoryError, match=message):
        reserve_memory(full_gpu(12 << 20), (300 << 20) + 1, "'image' of 4 images")


def test_memory_that_the_host_lacks_is_no_matter_of_the_gpu() -> None:
    resources = CudaResources(full_gpu(8 << 30), 0)
    with pytest.raises(GpuError, match="pinning 3 MiB of host memory for 'image' failed"):
        resources.allocate_pinned(3 << 20, "'image'")


@pytest.fixture(params=TARGETS)
def engine(request: pytest.FixtureRequest, tmp_path: Path, segmenter: Writer) -> Path:
    """An artifact with an engine for this machine's GPU, batches of 1 to 4, and the ONNX file."""
    target: Target = request.param
    reason = cannot_run_reason(target)
    if reason is not None:
        pytest.skip(reason)
    capability, onnx_path = own_compute_capability(), segmenter(batch="batch")
    built = build_engine(
        onnx_path, target, (capability,), BuildOptions(batch=(1, 2, 4)), progress=False
    )
    (tmp_path / "model.onnx").write_bytes(onnx_path.read_bytes())
    (tmp_path / "model.engine").write_bytes(built.plan)

    entries = (
        BuiltTarget("ort", installed_version(Target.ORT), (), "model.onnx"),
        BuiltTarget(target, built.version, (capability,), "model.engine"),
    )
    files = {entry.file: hash_file(tmp_path / entry.file) for entry in entries}
    described = describe(batch="batch")
    replace(described, files=files, targets=entries).write(tmp_path)
    return tmp_path


@pytest.fixture
def runtime(engine: Path) -> Iterator[Runtime]:
    with open_runtime(engine) as opened:
        yield opened


def on_gpu(array: np.ndarray) -> Any:
    """Return a GPU's copy that offers both protocols."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return torch.from_numpy(array).cuda()


@pytest.mark.gpu
def test_labels_are_those_of_onnx_runtime(
    runtime: Runtime, engine: Path, images: np.ndarray
) -> None:
    assert runtime.target in TARGETS
    got = [runtime.infer(images) for _ in range(4)]  # enqueued, captured, launched twice
    with open_runtime(engine, "ort") as reference:
        expected = reference.infer(images)
    assert (got[0] == expected).mean() >= GOLDEN_LABELS
    assert all(np.array_equal(got[0], again) for again in got[1:])


@pytest.mark.gpu
def test_shapes_may_change_between_calls(runtime: Runtime, images: np.ndarray) -> None:
    expected = np.concatenate([runtime.infer(image[None]) for image in images])
    for count in (3, 3, 3, 1, 2, 2, 2, 3):
        assert np.array_equal(runtime.infer(images[:count]), expected[:count])


@pytest.mark.gpu
def test_a_stream_gives_what_infer_gives(runtime: Runtime, images: np.ndarray) -> None:
    batches = [images[[k % 3]] for k in range(9)]
    for got, batch in zip(runtime.stream(batches), batches, strict=True):
        assert np.array_equal(got, runtime.infer(batch))


@pytest.mark.gpu
def test_arrays_on_the_gpu_are_read_and_written_there(runtime: Runtime, images: np.ndarray) -> None:
    expected = runtime.infer(images)
    source, target = on_gpu(images), on_gpu(np.zeros_like(expected))
    assert runtime.infer(source, target) is target
    assert np.array_equal(target.cpu().numpy(), expected)
    assert np.array_equal(runtime.infer(source), expected)
    with pytest.raises(ValueError, match="images: expected a contiguous array"):
        runtime.infer(source[:, :, ::2])


@pytest.mark.gpu
def test_several_instances_agree(engine: Path, images: np.ndarray) -> None:
    with open_runtime(engine, instances=3) as runtime:
        futures = [runtime.infer_async(images) for _ in range(12)]
        first, *others = [future.result() for future in futures]
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.gpu
def test_an_engine_for_another_gpu_or_version_is_not_loaded(engine: Path) -> None:
    manifest = Manifest.read(engine)
    entry = manifest.targets[1]
    for changed, message in (
        (replace(entry, version="1.0.0.1"), r"was built by .* 1\.0\.0\.1, installed is"),
        (replace(entry, compute_capabilities=("SM10",)), "engines for SM10, and this GPU is SM"),
    ):
        replace(manifest, targets=(manifest.targets[0], changed)).write(engine)
        with pytest.raises(ValueError, match=message):
            open_runtime(engine, entry.target)


@pytest.mark.gpu
def test_a_full_gpu_is_an_error_and_what_runs_goes_on(engine: Path, images: np.ndarray) -> None:
    manifest = Manifest.read(engine)
    loaded = TrtEngine(engine, manifest, Target(manifest.targets[1].target))
    filling = CudaResources(import_cudart(), 0)
    try:
        instance = loaded.make_instance()
        out = np.empty((3, 64, 64), np.uint8)
        expected = instance.run(images, out).copy()
        count = 1 << 36
        while count > 1 << 19:
            try:
                filling.allocate(count, "what fills the GPU")
            except GpuOutOfMemoryError:
                count >>= 1
        with pytest.raises(GpuOutOfMemoryError, match="MiB are free; free some, open fewer inst"):
            loaded.make_instance()
        assert np.array_equal(instance.run(images, out), expected)
    finally:
        filling.close()
        loaded.close()


@pytest.mark.gpu
def test_what_tensorrt_rtx_compiled_is_kept(
    engine: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(engine)
    if manifest.targets[1].target != Target.TRT_RTX:
        pytest.skip("TensorRT compiles when it builds")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open_runtime(engine, "trt-rtx") as runtime:
        expected = runtime.infer(images)
    (kept,) = (tmp_path / "cache" / "segvit" / "tensorrt-rtx").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    loaded = TrtEngine(engine, manifest, Target.TRT_RTX)
    assert "damaged or of another driver; made anew" in loaded.notes[0]
    loaded.close()
    with open_runtime(engine, "trt-rtx") as runtime:
        assert np.array_equal(runtime.infer(images), expected)
