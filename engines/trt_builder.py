"""One builder for TensorRT 10.3 to 11.x and TensorRT-RTX, which share an interface.

Precision belongs to the graph: networks are strongly typed and no precision flag is set. What a
version lacks is found out by `hasattr`, never by its number, since TensorRT-RTX counts anew.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.build_progress import BuildProgress, show_progress
from engines.fused_tail_plugin import find_tail, replace_tail
from engines.gpu import check_cuda, import_cudart
from engines.kernels import Kernel, is_layer_dump, parse_inspector, parse_layer_dump
from engines.target import Target, import_tensorrt
from segvit.atomic import write_bytes

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+)")
_POLL_SECONDS = 0.1


class EngineBuildError(RuntimeError):
    """An engine that could not be built; carries the parser's or the builder's own message."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build may be told; None leaves the compiler's default.

    `compute_capabilities` is for TensorRT-RTX alone. `batch` is (min, opt, max) of the
    optimisation profile. For TensorRT alone: `timing_cache` is read if it is there, then updated;
    `device` is the number of the GPU built on; `fused_tail` puts one kernel in place of the tail.
    It is experimental: no engine with it was ever built or run. `allow_known_wrong` builds what
    `engines.known_wrong` refuses, with a warning.
    """

    compute_capabilities: tuple[str, ...] = ("SM86", "SM89", "SM120")
    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    device: int = 0
    fused_tail: bool = False
    allow_known_wrong: bool = False

    def __post_init__(self) -> None:
        smallest, typical, largest = self.batch
        if not 1 <= smallest <= typical <= largest:
            raise ValueError(f"batch: expected 1 <= min <= opt <= max, got {self.batch}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"workspace: expected at least 1 MiB, got {self.workspace_mib}")
        if not self.compute_capabilities:
            raise ValueError("compute capability: expected at least one, such as SM89")


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and what its builder said about it.

    `activation_bytes` is None if the builder did not say; `bindings` are the tensors' names.
    """

    target: Target
    version: str
    compute_capabilities: tuple[str, ...]
    plan: bytes
    kernels: tuple[Kernel, ...]
    bindings: tuple[str, ...]
    activation_bytes: int | None
    build_seconds: float


def build_engine(
    onnx_path: str | Path,
    target: Target,
    compute_capabilities: tuple[str, ...],
    options: BuildOptions | None = None,
    progress: bool = True,
) -> BuiltEngine:
    """Return the engine that `target`'s builder makes of an ONNX file.

    Ctrl-C stops the build at the builder's next step. TensorRT-RTX gives a plan of several
    capabilities the kernels of the oldest, so they should be of one generation.

    Args:
        onnx_path: the model; external data is found beside it.
        target: TRT or TRT_RTX.
        compute_capabilities: such as ("SM86", "SM89"); for TRT, that of the GPU built on.
        options: None takes the defaults.
        progress: show a bar, on a terminal.

    Raises:
        EngineBuildError: if the parser or the builder refuses, with its own words.
        ValueError: if an option does not fit the model or the compiler.
        ImportError: if what the target or an option needs is not installed.
        KeyboardInterrupt: after Ctrl-C, once the builder has stopped.
    """
    options = options or BuildOptions()
    label = f"{target} {' '.join(compute_capabilities)}"
    state = BuildProgress()
    return _run_interruptibly(
        lambda: _build(Path(onnx_path), target, compute_capabilities, options, label, state),
        state,
        label,
        progress,
    )


def _build(
    path: Path,
    target: Target,
    compute_capabilities: tuple[str, ...],
    options: BuildOptions,
    label: str,
    state: BuildProgress,
) -> BuiltEngine:
    trt = import_tensorrt(target)
    if target is Target.TRT:
        _choose_gpu(options.device)
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, path, logger, label)
    if target is Target.TRT and options.fused_tail:
        replace_tail(network, find_tail(path), compute_capabilities[0])
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if target is Target.TRT_RTX:
        _set_capabilities(trt, config, compute_capabilities)
    _add_profile(builder, network, config, options.batch)
    cache = _load_timing_cache(config, options.timing_cache, target)
    config.progress_monitor = _make_monitor(trt, state)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = logger.describe_errors() or "the builder gave no reason"
        raise EngineBuildError(f"engine for {label} was not built: {said}")
    seconds = time.perf_counter() - started
    if cache is not None and options.timing_cache is not None:
        write_bytes(options.timing_cache, memoryview(cache.serialize()))
    serialized = bytes(memoryview(plan))
    kernels, bindings = _read_kernels(trt, logger, serialized)
    return BuiltEngine(
        target=target,
        version=str(trt.__version__),
        compute_capabilities=compute_capabilities,
        plan=serialized,
        kernels=kernels,
        bindings=bindings,
        activation_bytes=logger.activation_bytes,
        build_seconds=seconds,
    )


def _choose_gpu(device: int) -> None:
    """Let this thread build on a GPU: CUDA's choice is a thread's own, and at first number 0."""
    if device:
        check_cuda(import_cudart().cudaSetDevice(device), f"choosing GPU {device}")


def _make_logger(trt: ModuleType) -> Any:
    """Return a logger that keeps errors and the layer list; the rest is tens of thousands."""

    class BuildLogger(trt.ILogger):  # type: ignore[misc,name-defined]  # a class found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: str | None = None
            self.activation_bytes: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif is_layer_dump(message):
                self.layers = message
            elif found := _ACTIVATIONS.search(message):
                self.activation_bytes = int(found[1])

        def describe_errors(self) -> str:
            return " | ".join(dict.fromkeys(self.errors))

    return BuildLogger()


def _make_monitor(trt: ModuleType, state: BuildProgress) -> Any:
    """Return the builder's side of `state`."""

    class BuildMonitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]  # as above
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            state.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return state.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            state.finish(phase_name)

    return BuildMonitor()


def _parse(parser: Any, network: Any, path: Path, logger: Any, label: str) -> None:
    """Fill the network from the file; external data is resolved beside it."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such ONNX file", str(path))
    parsed = parser.parse_from_file(str(path))
    if not parsed:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = " | ".join(_describe_parser_error(error) for error in errors)
        raise EngineBuildError(
            f"'{path}' cannot be parsed for {label}: {said or logger.describe_errors()}"
        )
    if network.num_outputs == 0:
        raise EngineBuildError(f"'{path}' is no ONNX model: it has no outputs")


def _describe_parser_error(parser_error: Any) -> str:
    name, operator = parser_error.node_name(), parser_error.node_operator()
    where = f"node '{name}' ({operator}): " if name or operator else ""
    return f"{where}{parser_error.desc()}"


def _configure(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    # The layer list that the audit reads is written at this verbosity alone.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, it would let products that the graph keeps in FP32 run with 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level


def _set_capabilities(trt: ModuleType, config: Any, names: tuple[str, ...]) -> None:
    members = trt.ComputeCapability.__members__
    known = [name for name in members if name.startswith("SM")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"compute capability {', '.join(unknown)} is not one that TensorRT-RTX "
            f"{trt.__version__} compiles for; expected some of {', '.join(sorted(known))}"
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(members[name], index)


def _add_profile(builder: Any, network: Any, config: Any, batch: tuple[int, int, int]) -> None:
    """Give a dynamic batch its range; refuse a range that a static one does not have."""
    tensor = network.get_input(0)
    name, shape = str(tensor.name), tuple(tensor.shape)
    if all(size >= 0 for size in shape):
        if set(batch) != {shape[0]}:
            raise ValueError(
                f"batch: the ONNX file has a static batch of {shape[0]}, got "
                f"{':'.join(map(str, batch))}; export it with --batch MIN:OPT:MAX"
            )
        return
    if any(size < 0 for size in shape[1:]):
        raise ValueError(f"input '{name}': only the batch may be dynamic, got shape {list(shape)}")
    profile = builder.create_optimization_profile()
    smallest, typical, largest = ((size, *shape[1:]) for size in batch)
    profile.set_shape(name, smallest, typical, largest)
    config.add_optimization_profile(profile)


def _load_timing_cache(config: Any, path: Path | None, target: Target) -> Any:
    """Return the cache now in use, None without a path."""
    if path is None:
        return None
    if target is Target.TRT_RTX:
        raise ValueError("--timing-cache: TensorRT-RTX times nothing when it builds; leave it out")
    data = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(data)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ValueError(
            f"timing cache '{path}' is of another GPU or TensorRT version; delete it or give "
            "another path"
        )
    return cache


def _run_interruptibly(
    build: Callable[[], BuiltEngine], state: BuildProgress, label: str, progress: bool
) -> BuiltEngine:
    """Return what `build` returns, run in a thread so that Ctrl-C is heard while it runs.

    Python handles signals between its own instructions on the main thread, and the builder gives
    none back for seconds at a time. Nor may an interrupt be raised inside the builder's callbacks:
    C++ does not survive it. So the main thread only waits, and never leaves before the builder.
    """
    built: list[BuiltEngine] = []
    failure: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            built.append(build())
        except BaseException as error:  # raised again below, on the thread that waits
            failure.append(error)
        finally:
            done.set()

    worker = threading.Thread(target=work, name="engine build", daemon=True)
    interrupted = False
    with show_progress(state, label, progress) as refresh:
        worker.start()
        # Not `join`: interrupted, Python 3.11's takes the thread for finished.
        while not done.is_set():
            try:
                done.wait(_POLL_SECONDS)
                refresh()
            except KeyboardInterrupt:
                state.cancel()
                interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    if failure:
        raise failure[0]
    return built[0]


def _read_kernels(
    trt: ModuleType, logger: Any, plan: bytes
) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Return kernels and bindings from the build's log, else from the engine itself.

    TensorRT-RTX logs the list and can open an engine only on its GPU; TensorRT can always open
    what it has just built.
    """
    if logger.layers is not None:
        return parse_layer_dump(logger.layers)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"the engine just built cannot be read: {logger.describe_errors()}")
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    document = json.loads(text)
    return parse_inspector(document["Layers"]), tuple(map(str, document.get("Bindings", ())))
