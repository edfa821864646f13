"""When a CUDA graph is captured, launched and dropped; CUDA itself only notes what it was told."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import pytest

from engines.cuda_graphs import Binding, GraphLauncher
from engines.gpu import GpuError

runtime = pytest.importorskip("cuda.bindings.runtime", reason="the names and errors of CUDA")
SMALL, LARGE = Binding(0, (1, 4, 4, 3), (256, 512)), Binding(0, (2, 4, 4, 3), (256, 512))


class Recorder:
    """Notes CUDA's calls among those that bind and enqueue; `failing` names one that fails."""

    def __init__(self, failing: str = "") -> None:
        self.calls = list[str]()
        self.failing = failing
        self.notes = list[str]()

    def __getattr__(self, name: str) -> Any:
        if name == "cudaStreamCaptureMode":
            return runtime.cudaStreamCaptureMode

        def call(*_: object) -> tuple[Any, ...]:
            self.calls.append(name.removeprefix("cuda"))
            error = runtime.cudaError_t
            failed = error.cudaErrorStreamCaptureInvalidated, None
            return failed if name == self.failing else (error.cudaSuccess, name)

        return call

    def enqueue(self) -> None:
        self.calls.append("enqueue")
        if self.failing == "enqueue" and "StreamBeginCapture" in self.calls[-2:]:
            raise GpuError("not while capturing")

    def launcher(self, capture: bool = True) -> GraphLauncher:
        def bind(binding: Binding) -> None:
            self.calls.append(f"bind {binding.shape[0]}")

        cudart = cast(ModuleType, self)
        return GraphLauncher(cudart, 1, bind, self.enqueue, self.notes.append, capture)

    def take(self) -> list[str]:
        taken, self.calls = self.calls, []
        return taken


CAPTURE = ["StreamBeginCapture", "enqueue", "StreamEndCapture", "GraphInstantiate", "GraphDestroy"]


def test_a_shape_is_enqueued_once_captured_and_then_launched() -> None:
    cuda = Recorder()
    launcher = cuda.launcher()
    launcher.launch(SMALL)
    assert cuda.take() == ["bind 1", "enqueue"]
    launcher.launch(SMALL)
    assert cuda.take() == [*CAPTURE, "GraphLaunch"]
    launcher.launch(SMALL)
    assert cuda.take() == ["GraphLaunch"]


@pytest.mark.parametrize(
    "other",
    [LARGE, Binding(1, SMALL.shape, SMALL.addresses), Binding(0, SMALL.shape, (256, 768))],
    ids=["shape", "profile", "address"],
)
def test_a_graph_does_not_outlive_what_its_context_is_bound_to(other: Binding) -> None:
    cuda = Recorder()
    launcher = cuda.launcher()
    for _ in range(2):
        launcher.launch(SMALL)
    cuda.take()
    launcher.launch(other)
    bound = f"bind {other.shape[0]}"
    assert cuda.take() == ["StreamSynchronize", "GraphExecDestroy", bound, "enqueue"]
    launcher.launch(other)
    assert cuda.take() == [*CAPTURE, "GraphLaunch"]


def test_alternating_shapes_are_never_captured() -> None:
    cuda = Recorder()
    launcher = cuda.launcher()
    for binding in (SMALL, LARGE, SMALL, LARGE):
        launcher.launch(binding)
    assert cuda.take() == ["bind 1", "enqueue", "bind 2", "enqueue"] * 2


@pytest.mark.parametrize(
    "failing", ["cudaStreamBeginCapture", "enqueue", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_where_capture_fails_it_is_enqueued_and_said_once(failing: str) -> None:
    cuda = Recorder(failing)
    launcher = cuda.launcher()
    for _ in range(4):
        launcher.launch(SMALL)
    calls = cuda.take()
    assert "GraphLaunch" not in calls
    assert calls.count("StreamBeginCapture") == 1
    if failing != "cudaStreamBeginCapture":
        assert calls.count("StreamEndCapture") == 1  # or the stream would go on capturing
    assert calls[-2:] == ["enqueue", "enqueue"]
    assert len(cuda.notes) == 1
    assert cuda.notes[0].startswith("kernels are launched one by one, no CUDA graph was captured: ")


def test_nothing_is_captured_for_a_runtime_that_does_so_itself() -> None:
    cuda = Recorder()
    launcher = cuda.launcher(capture=False)
    for _ in range(3):
        launcher.launch(SMALL)
    assert cuda.take() == ["bind 1", "enqueue", "enqueue", "enqueue"]
    assert cuda.notes == []


def test_after_a_failure_all_is_bound_anew() -> None:
    cuda = Recorder()
    launcher = cuda.launcher()
    for _ in range(2):
        launcher.launch(SMALL)
    launcher.drop()
    cuda.take()
    launcher.launch(SMALL)
    assert cuda.take() == ["bind 1", "enqueue"]
