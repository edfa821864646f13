"""Every name that we use of TensorRT exists in the real bindings, oldest to newest.

The bindings wheels are on PyPI, the libraries under them are not: stub libraries that export the
few symbols they ask for let them be imported, and looked at, on any machine.
"""

from __future__ import annotations

import ast
import ctypes
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ENGINES = Path(__file__).parents[2] / "engines"
SOURCES = ("trt_builder.py", "trt_runtime.py", "trt_instance.py")
CUDA_SOURCES = (
    "gpu.py",
    "trt_runtime.py",
    "trt_stream.py",
    "cuda_arrays.py",
    "cuda_graphs.py",
    "cuda_resources.py",
)
# Functions that run for TensorRT-RTX alone: its capabilities, runtime cache and CUDA graph
# strategy are no part of TensorRT.
RTX_ONLY = frozenset({"_set_capabilities", "_make_runtime_config", "_open_cache", "_save_cache"})
# The class behind each name that our source gives an object; the bindings are not typed.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
    "tensor": "ITensor",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
STUB = """
#define STUB(name) void* name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL) STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(createNvOnnxParser_INTERNAL) STUB(getBuilderPluginRegistry) STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry) STUB(initLibNvInferPlugins) STUB(getInferLibVersion)
"""
LOOK_UP = """
import importlib, json, operator, sys
module = importlib.import_module(sys.argv[1])
names = json.load(sys.stdin)
found = {}
for name, keywords in names.items():
    try:
        item = operator.attrgetter(name)(module)
    except AttributeError:
        found[name] = None
    else:
        described = item.__doc__ or ""
        found[name] = [word for word in keywords if word + ":" not in described]
print(json.dumps([getattr(module, "__version__", ""), found]))
"""


@dataclass
class Usage(ast.NodeVisitor):
    """Collects dotted names below the module, each with the keywords it is called with."""

    names: dict[str, set[str]] = field(default_factory=dict)
    rtx_names: dict[str, set[str]] = field(default_factory=dict)
    _in_rtx: bool = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self._in_rtx = self._in_rtx, self._in_rtx or node.name in RTX_ONLY
        self.generic_visit(node)
        self._in_rtx = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            name = self._resolve(base)
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef))
            for method in methods if name else ():
                if not method.name.startswith("__") and not method.name.startswith("describe"):
                    self._note(f"{name}.{method.name}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._resolve(node)
        if name:
            self._note(name)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._resolve(node.func)
        for keyword in node.keywords if name else ():
            self._note(str(name), str(keyword.arg))
        self.generic_visit(node)

    def _resolve(self, node: ast.expr) -> str | None:
        if not isinstance(node, ast.Attribute):
            return None
        owner = node.value
        if isinstance(owner, ast.Name):
            if owner.id == "trt":
                return node.attr
            return f"{CLASSES[owner.id]}.{node.attr}" if owner.id in CLASSES else None
        if isinstance(owner, ast.Attribute):
            own = isinstance(owner.value, ast.Name) and owner.value.id == "self"
            if own and owner.attr.removeprefix("_") in CLASSES:
                return f"{CLASSES[owner.attr.removeprefix('_')]}.{node.attr}"
            outer = self._resolve(owner)
            return f"{outer}.{node.attr}" if outer else None
        return None

    def _note(self, name: str, keyword: str | None = None) -> None:
        if "__members__" in name:
            return
        names = self.rtx_names if self._in_rtx else self.names
        names.setdefault(name, set()).update([keyword] if keyword else [])


def cuda_names(path: Path) -> set[str]:
    """Return what a source uses of the CUDA runtime: functions, and members of enums."""
    enums = {"attributes": "cudaDeviceAttr", "memory_types": "cudaMemoryType"}
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or not re.match("cuda[A-Z]", node.attr):
            continue
        owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
        owner = enums.get(owner, owner if re.match("cuda[A-Z]", owner) else "")
        names.add(f"{owner}.{node.attr}" if owner else node.attr)
    return names


@pytest.fixture(scope="module")
def usage() -> Usage:
    found = Usage()
    for source in SOURCES:
        found.visit(ast.parse((ENGINES / source).read_text()))
    return found


@pytest.fixture(scope="module")
def wheels(request: pytest.FixtureRequest) -> Path:
    """A folder that keeps the wheels between runs."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("nvidia-bindings")


def install(folder: Path, *packages: str) -> Path:
    """Return a folder with packages in it, made whole or not at all: tests may run in parallel."""
    if sys.platform != "linux":
        pytest.skip("the bindings' wheels are looked at on Linux")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    target = folder / "-".join((packages[0].replace("==", "-"), python))
    if target.is_dir():
        return target
    staged = target.with_name(f"{target.name}.{os.getpid()}")
    options = ["--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--target", str(staged)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(staged, ignore_errors=True)
        pytest.skip(f"{packages[0]} cannot be installed here: {done.stderr.strip()[-200:]}")
    try:
        staged.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(staged, ignore_errors=True)
    return target


def install_tensorrt(folder: Path, version: str, stubs: Path) -> tuple[Path, Path]:
    """Return the folders of the bindings and of the stub libraries that they load."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stub libraries")
    target = install(folder, f"tensorrt-cu12-bindings=={version}")
    major = version.split(".")[0]
    source = stubs / "stub.c"
    source.write_text(STUB)
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", stubs / name, source],
            check=True,
        )
    return target, stubs


def look_up(
    module: str, folder: Path, libraries: Path, names: dict[str, set[str]]
) -> tuple[str, dict[str, list[str] | None]]:
    """Return the bindings' version, and for each name the keywords missing; None for no name."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, module],
        input=json.dumps({name: sorted(keywords) for name, keywords in names.items()}),
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, found = json.loads(done.stdout)
    return version, found


def test_the_search_through_our_source_finds_what_it_should(usage: Usage) -> None:
    assert {
        "Builder", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "BuilderFlag.TF32",
        "ProfilingVerbosity.DETAILED", "MemoryPoolType.WORKSPACE", "TensorIOMode.INPUT",
        "LayerInformationFormat.JSON", "ILogger.Severity.INTERNAL_ERROR",
        "Builder.build_serialized_network", "IBuilderConfig.progress_monitor",
        "IProgressMonitor.step_complete", "ILogger.log", "OnnxParser.parse_from_file",
        "ParserError.node_name", "IOptimizationProfile.set_shape", "ITimingCache.serialize",
        "Runtime.deserialize_cuda_engine", "ICudaEngine.get_tensor_mode",
        "IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address",
        "EngineInspector.get_engine_information",
    } <= set(usage.names)  # fmt: skip
    assert {
        "IExecutionContext.set_optimization_profile_async", "ICudaEngine.device_memory_size_v2",
        "ICudaEngine.get_tensor_profile_shape", "ICudaEngine.create_execution_context", "nptype",
    } <= set(usage.names)  # fmt: skip
    assert usage.names["IBuilderConfig.set_timing_cache"] == {"ignore_mismatch"}
    assert {
        "IBuilderConfig.set_compute_capability", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "ICudaEngine.create_runtime_config", "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize", "IRuntimeCache.serialize",
    } <= set(usage.rtx_names)  # fmt: skip


@pytest.mark.parametrize("version", ["10.3.0", "10.16.0.72", "11.4.0.106"])
def test_all_we_use_of_tensorrt_is_there(
    usage: Usage, wheels: Path, tmp_path: Path, version: str
) -> None:
    folders = install_tensorrt(wheels, version, tmp_path)
    imported, found = look_up("tensorrt_bindings", *folders, usage.names)
    assert imported == version
    assert sorted(name for name, missing in found.items() if missing is None) == []
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_a_name_that_is_gone_would_be_found(wheels: Path, tmp_path: Path) -> None:
    """TensorRT 11 dropped the precision flags, and no version has this keyword."""
    names = {"BuilderFlag.FP16": set[str](), "Builder.create_network": {"flags", "colour"}}
    _, old = look_up("tensorrt_bindings", *install_tensorrt(wheels, "10.3.0", tmp_path), names)
    assert old == {"BuilderFlag.FP16": [], "Builder.create_network": ["colour"]}
    _, new = look_up("tensorrt_bindings", *install_tensorrt(wheels, "11.4.0.106", tmp_path), names)
    assert new == {"BuilderFlag.FP16": None, "Builder.create_network": ["colour"]}


@pytest.mark.parametrize("version", ["12.8.0", "13.3.1"])
def test_all_we_use_of_cuda_python_is_there(wheels: Path, tmp_path: Path, version: str) -> None:
    names = {name: set[str]() for source in CUDA_SOURCES for name in cuda_names(ENGINES / source)}
    assert {
        "cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyKind.cudaMemcpyHostToDevice",
        "cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor", "cudaGraphInstantiate",
        "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal", "cudaEventSynchronize",
        "cudaMemoryType.cudaMemoryTypeManaged", "cudaHostAllocDefault",
    } <= set(names)  # fmt: skip
    # Fields of what cudaPointerGetAttributes returns, and the error that is told from others.
    fields = ("cudaPointerAttributes.type", "cudaPointerAttributes.device")
    names.update({name: set() for name in (*fields, "cudaError_t.cudaErrorMemoryAllocation")})
    folder = install(wheels, f"cuda-bindings=={version}", "cuda-pathfinder")
    _, found = look_up("cuda.bindings.runtime", folder, tmp_path, names)
    assert sorted(name for name, missing in found.items() if missing is None) == []


@pytest.mark.parametrize("version", ["1.0.0", "1.2.2"])
def test_all_we_use_of_cuda_core_is_there(wheels: Path, tmp_path: Path, version: str) -> None:
    names = {
        f"StridedMemoryView.{name}": set[str]()
        for name in ("from_dlpack", "ptr", "shape", "strides", "dtype", "readonly")
    }
    packages = ("cuda-bindings==13.3.1", "cuda-pathfinder")
    folder = install(wheels, f"cuda-core=={version}", *packages)
    _, found = look_up("cuda.core.utils", folder, tmp_path, names)
    assert sorted(name for name, missing in found.items() if missing is None) == []


@pytest.mark.trt_rtx
def test_all_we_use_of_tensorrt_rtx_is_there(usage: Usage) -> None:
    trt = pytest.importorskip("tensorrt_rtx")

    for name in {**usage.names, **usage.rtx_names}:
        operator.attrgetter(name)(trt)


@pytest.mark.trt_rtx
def test_the_library_says_its_version_as_the_bindings_do() -> None:
    """The C++ back end compares what these functions say with what Python wrote in a manifest."""
    trt, libraries = map(pytest.importorskip, ("tensorrt_rtx", "tensorrt_rtx_libs"))
    (path,) = Path(libraries.__file__).parent.glob("libtensorrt_rtx.so.*")
    library = ctypes.CDLL(str(path))
    parts = ("Major", "Minor", "Patch", "Build")
    version = ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)
    assert version == trt.__version__
