"""TensorRT and TensorRT-RTX engines for the pool of `engines.pool`, through cuda-python."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.arrays import check_tensors
from engines.cuda_runtime_cache import (
    find_runtime_cache,
    read_runtime_cache,
    write_runtime_cache,
)
from engines.gpu import check_cuda, free_memory, import_cudart, out_of_memory
from engines.runtime import find_entry
from engines.target import Target, import_tensorrt, installed_version, own_compute_capability
from engines.trt_instance import LoadedEngine, TrtInstance, TrtRuntimeError
from export.manifest import BuiltTarget, Manifest, TensorSpec, read_verified


def find_usable_entry(folder: Path, manifest: Manifest, target: Target, device: int) -> BuiltTarget:
    """Return the entry made for this GPU by the TensorRT installed here.

    Raises:
        ValueError: if there is none; the message has the command that makes one.
    """
    entry = find_entry(folder, manifest, target, own_compute_capability(device))
    check_version(folder, entry, installed_version(target))
    return entry


def check_version(folder: Path, entry: BuiltTarget, installed: str) -> None:
    """Accept an engine of the very version installed; others' formats differ.

    Raises:
        ValueError: if the versions differ; the message has the command that rebuilds.
    """
    if entry.version != installed:
        raise ValueError(
            f"'{folder / entry.file}' was built by {entry.target} {entry.version}, installed is "
            f"{installed}; install that version, or rebuild it: "
            f"python -m engines.build --artifact {folder} --target {entry.target}"
        )


class TrtEngine:
    """One engine in the GPU's memory; each instance has an execution context of its own.

    Hash, version and compute capability are checked before the engine is deserialised, since an
    engine is executable code.

    Args:
        folder: the artifact folder.
        manifest: its manifest.
        target: TRT or TRT_RTX.
        device: the GPU's number.

    Raises:
        ManifestError: if the engine was changed, or is not what the manifest says.
        ValueError: if it was made for another GPU or version.
        GpuOutOfMemoryError: if the GPU has no room for it.
        TrtRuntimeError: if TensorRT cannot load it.
    """

    streams = True

    def __init__(self, folder: Path, manifest: Manifest, target: Target, device: int = 0) -> None:
        self.target = target
        self._notes: list[str] = []
        self._instances: list[TrtInstance] = []
        entry = find_usable_entry(folder, manifest, target, device)
        path = folder / entry.file
        plan = read_verified(folder, entry.file, manifest)
        self._trt, self._cudart, self._device = import_tensorrt(target), import_cudart(), device
        check_cuda(self._cudart.cudaSetDevice(device), f"choosing GPU {device}")
        self._logger = _make_logger(self._trt)
        # The runtime must outlive the engine, and the engine its contexts.
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            self._raise_for(f"'{path}' did not load", "the engine", len(plan))
        check_tensors(path, describe_tensors(self._trt, self._engine), manifest)
        self._cache: Any = None
        if target is Target.TRT_RTX:
            capability = own_compute_capability(device)
            self._cache_path = find_runtime_cache(manifest.files[entry.file], capability)
            self._cached = self._open_cache()
        self._loaded = LoadedEngine(
            input=manifest.input,
            output=manifest.outputs[0],
            batch=manifest.batch,
            profiles=read_profiles(self._engine, manifest),
            device=device,
            cudart=self._cudart,
            make_context=self._make_context,
            describe_errors=self._logger.describe_errors,
            tell=self._tell,
            capture=target is Target.TRT,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know and need not act on, each once."""
        return tuple(self._notes)

    def make_instance(self) -> TrtInstance:
        """Return one more execution context with its memory.

        Raises:
            GpuOutOfMemoryError: if the GPU has no room for it; those made before go on.
            TrtRuntimeError: if TensorRT gives none.
        """
        instance = TrtInstance(self._loaded)
        self._instances.append(instance)
        return instance

    def close(self) -> None:
        """Free instances and engine, and keep what TensorRT-RTX compiled; repeatable."""
        check_cuda(self._cudart.cudaSetDevice(self._device), f"choosing GPU {self._device}")
        while self._instances:
            self._instances.pop().close()
        self._save_cache()
        self._cache = self._engine = self._runtime = None

    def _make_context(self) -> Any:
        engine = self._engine
        if self.target is Target.TRT_RTX:
            context = engine.create_execution_context(self._make_runtime_config())
        else:
            context = engine.create_execution_context()
        if context is None:
            activations = int(engine.device_memory_size_v2)
            self._raise_for("no execution context was made", "an execution context", activations)
        return context

    def _make_runtime_config(self) -> Any:
        """Return how TensorRT-RTX runs: it captures CUDA graphs and compiles kernels by itself."""
        trt, engine = self._trt, self._engine
        runtime_config = engine.create_runtime_config()
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is not None:
            runtime_config.set_runtime_cache(self._cache)
        return runtime_config

    def _open_cache(self) -> bytes | None:
        """Return what an earlier run left, after making the cache that all contexts share of it."""
        runtime_config = self._engine.create_runtime_config()
        self._cache = runtime_cache = runtime_config.create_runtime_cache()
        try:
            kept = read_runtime_cache(self._cache_path)
        except (OSError, ValueError) as error:
            self._tell(f"runtime cache not used: {error}")
            return None
        if kept is not None and not runtime_cache.deserialize(kept):
            self._logger.describe_errors()  # no part of the next failure's message
            self._tell(f"'{self._cache_path}' is damaged or of another driver; made anew")
            return None
        return kept

    def _save_cache(self) -> None:
        runtime_cache = self._cache
        if runtime_cache is None:
            return
        compiled = runtime_cache.serialize()
        if compiled is None or bytes(memoryview(compiled)) == self._cached:
            return
        try:
            write_runtime_cache(self._cache_path, memoryview(compiled))
        except (OSError, ValueError) as error:
            self._tell(f"runtime cache not kept: {error}")

    def _raise_for(self, problem: str, what: str, count: int) -> None:
        """Raise the error for something that TensorRT did not give; `count` bytes were needed."""
        said = self._logger.describe_errors()
        if "out of memory" in said.lower() or free_memory(self._cudart)[0] < count:
            self._cudart.cudaGetLastError()  # or the next call that looks would find it
            raise out_of_memory(self._cudart, what, count)
        raise TrtRuntimeError(f"{problem}: {said}")

    def _tell(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


def read_profiles(engine: Any, manifest: Manifest) -> tuple[tuple[int, int], ...]:
    """Return the (smallest, largest) batch of each optimisation profile."""
    name = manifest.input.name
    fixed = engine.get_tensor_shape(name)[0]
    if fixed > 0:
        return ((fixed, fixed),)
    shapes = (
        engine.get_tensor_profile_shape(name, index)
        for index in range(engine.num_optimization_profiles)
    )
    return tuple((int(smallest[0]), int(largest[0])) for smallest, _, largest in shapes)


def describe_tensors(trt: ModuleType, engine: Any) -> list[TensorSpec]:
    """Return an engine's tensors, inputs first; a dynamic batch is called `batch`."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    return [
        TensorSpec(
            name,
            np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name,
            tuple("batch" if size < 0 else int(size) for size in engine.get_tensor_shape(name)),
        )
        for name in names
    ]


def _make_logger(trt: ModuleType) -> Any:
    """Return a logger that keeps errors for our messages."""

    class RunLogger(trt.ILogger):  # type: ignore[misc,name-defined]  # a class found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(message)

        def describe_errors(self) -> str:
            """Return what went wrong since the last call."""
            taken, self._errors = self._errors, []
            return " | ".join(taken) or "TensorRT gave no reason"

    return RunLogger()
