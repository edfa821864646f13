from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from engines.devices import Device, parse_device
from engines.gpu import GpuError, check_cuda
from engines.target import (
    Target,
    cannot_run_reason,
    import_tensorrt,
    installed_version,
    missing_reason,
    parse_targets,
)

LACKS_TENSORRT = importlib.util.find_spec("tensorrt") is None


def test_names_are_those_of_the_command_line() -> None:
    assert [str(target) for target in Target] == ["trt", "trt-rtx", "ort", "openvino"]
    assert parse_targets(["ort", "trt-rtx", "ort"]) == (Target.ORT, Target.TRT_RTX)
    assert parse_targets(["auto"]) == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["tensorrt"],
            "target 'tensorrt' is unknown; expected one of: trt, trt-rtx, ort, openvino, auto",
        ),
        (["auto", "ort"], "'auto' stands alone, got auto, ort"),
    ],
)
def test_unknown_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_targets(names)


@pytest.mark.skipif(not LACKS_TENSORRT, reason="tensorrt is installed")
def test_a_missing_library_is_named_with_its_extra() -> None:
    message = r"tensorrt is not installed; install it with: pip install 'segvit-deploy\[trt\]'"
    with pytest.raises(ImportError, match=message):
        import_tensorrt(Target.TRT)
    for reason in (missing_reason(Target.TRT), cannot_run_reason(Target.TRT)):
        assert reason is not None
        assert "pip install" in reason


def test_a_library_that_does_not_load_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(ImportError, match=r"tensorrt does not load \(libnvinfer\.so\.11: not fou"):
        import_tensorrt(Target.TRT)


@pytest.mark.trt_rtx
def test_tensorrt_rtx_builds_without_a_gpu() -> None:
    pytest.importorskip("tensorrt_rtx")
    assert missing_reason(Target.TRT_RTX) is None
    assert installed_version(Target.TRT_RTX).startswith("1.")


def test_onnx_runtime_builds_and_runs_anywhere() -> None:
    pytest.importorskip("onnxruntime")
    assert missing_reason(Target.ORT) is None
    assert cannot_run_reason(Target.ORT) is None


def test_a_cuda_status_is_checked() -> None:
    assert check_cuda((0, 7), "counting") == 7
    assert check_cuda((0,), "freeing") is None
    with pytest.raises(GpuError, match="counting failed: 35"):
        check_cuda((35, None), "counting")


@pytest.mark.parametrize(
    ("text", "device"),
    [
        (0, Device("auto", 0)),
        ("3", Device("auto", 3)),
        ("cpu", Device("cpu", 0)),
        ("CUDA", Device("cuda", 0)),
        ("cuda:2", Device("cuda", 2)),
        ("tensorrt:1", Device("tensorrt", 1)),
    ],
)
def test_devices_are_read(text: int | str, device: Device) -> None:
    assert parse_device(text) == device
    assert parse_device(str(device)) == device


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cpu:1", "-1", "", "cuda:x"])
def test_what_names_no_device_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a GPU's number, cpu, cuda:N or tensorrt:N"):
        parse_device(text)


def test_a_deploy_host_needs_neither_torch_nor_onnx() -> None:
    """What runs engines imports none of them; torch alone takes seconds and a gigabyte."""
    code = (
        "import sys, engines.segment, engines.ort_runtime, engines.trt_runtime\n"
        "print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
