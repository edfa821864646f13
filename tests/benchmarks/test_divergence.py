"""`benchmarks.divergence`: a planted error is named, and powers of two that move are none."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from benchmarks.divergence import measure_divergence
from benchmarks.tapped_graphs import import_backend, load_network
from calibration.outlier_migration import OutlierMigrationPass
from engines import openvino_runtime
from engines.target import Target, cannot_run_reason
from export.layer_divergence import LayerDivergence, find_first
from tests.engines.conftest import write_segmenter
from tests.tiny_models import random_images

IMAGES = [random_images(1, 64, 64)]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes the same segmenter in a precision, its values typed."""

    def write_typed(precision: str) -> Path:
        path = write_segmenter(tmp_path / f"{precision}.onnx", precision)
        onnx.shape_inference.infer_shapes_path(path, path)
        return path

    return write_typed


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.0), ("fp16", 0.02), ("bf16", 0.2)])
def test_every_layer_is_close(write: Write, precision: str, most: float) -> None:
    layers = measure_divergence(write("fp32"), write(precision), precision, IMAGES, False)
    errors = [layer.relative_rms for layer in layers]
    assert len(layers) > 60
    assert layers[-1].name.startswith("tail/")
    assert max(errors) <= most
    assert find_first(layers, most) is None
    assert (max(errors) > 0) == (precision != "fp32")


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 0.02), ("bf16", 0.2)])
def test_every_layer_is_close_on_openvino(write: Write, precision: str, most: float) -> None:
    layers = measure_divergence(
        write("fp32"), write(precision), precision, IMAGES, False, Target.OPENVINO
    )
    assert len(layers) > 60
    assert layers[-1].name.startswith("tail/")
    assert 0 < max(layer.relative_rms for layer in layers) <= most


def test_what_a_compiler_merges_is_left_out(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_divergence(write("fp32"), write("fp16"), "fp16", IMAGES, False)
    known = openvino_runtime._expose
    monkeypatch.setattr(
        openvino_runtime,
        "_expose",
        lambda model, names: known(model, [n for n in names if "fc1" in n]),
    )
    parts = measure_divergence(write("fp32"), write("fp16"), "fp16", IMAGES, False, Target.OPENVINO)
    assert 0 < len(parts) < len(whole)
    monkeypatch.setattr(openvino_runtime, "_expose", lambda model, _: model)
    with pytest.raises(ValueError, match=r"nothing of .* could be read on openvino: .* bisect on"):
        measure_divergence(write("fp32"), write("fp16"), "fp16", IMAGES, False, Target.OPENVINO)


@pytest.mark.trt_rtx
def test_an_engines_unfused_tensors_can_be_read(write: Write) -> None:
    """As far as no GPU is needed: the engine is the usual one but for a flag."""
    pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
    path = write("fp16")
    backend = import_backend(Target.TRT_RTX)
    config = import_module("polygraphy.backend.tensorrt_rtx").CreateConfigRTX(
        compute_capabilities=[(8, 9)]
    )
    readable, usual = (
        np.frombuffer(backend.EngineBytesFromNetwork(network, config)(), np.uint8)
        for network in (
            load_network(path, Target.TRT_RTX),
            backend.NetworkFromOnnxPath(str(path), strongly_typed=True),
        )
    )
    assert readable.shape == usual.shape
    assert 1 <= (readable != usual).sum() <= 8
    if cannot_run_reason(Target.TRT_RTX):
        with pytest.raises(ValueError, match=r"values of .* on trt-rtx cannot be read here: "):
            measure_divergence(write("fp32"), path, "fp16", IMAGES, False, Target.TRT_RTX)


@pytest.mark.parametrize("target", [Target.ORT, Target.OPENVINO])
def test_a_planted_error_is_named(write: Write, tmp_path: Path, target: Target) -> None:
    model = ir.load(write("fp32"))
    planted = model.graph.node("encoder/1/fc1")
    weight = planted.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.1), name=weight.name)
    ir.save(model, tmp_path / "planted.onnx")
    planted_path = tmp_path / "planted.onnx"
    layers = measure_divergence(write("fp32"), planted_path, "fp32", IMAGES, False, target)
    first = find_first(layers, 0.01)
    assert first is not None
    assert (first.name, first.op_type) == ("encoder/1/fc1", "MatMul")
    assert first.relative_rms == pytest.approx(0.1, rel=1e-3)


def test_powers_of_two_that_move_are_no_error(write: Write, tmp_path: Path) -> None:
    model = ir.load(write("fp32"))
    norm = "encoder/0/norm2"
    exponents = np.random.default_rng(0).integers(-3, 4, 64).tolist()
    assert OutlierMigrationPass({norm: exponents})(model).modified
    ir.save(model, tmp_path / "moved.onnx")
    errors = {
        precision: measure_divergence(
            write("fp32"), tmp_path / "moved.onnx", precision, IMAGES, False
        )
        for precision in ("fp32", "int8")
    }
    first = find_first(errors["fp32"], 1e-4)
    assert first is not None
    assert first.name == norm
    assert find_first(errors["int8"], 1e-4) is None


def test_no_number_diverges() -> None:
    assert find_first([LayerDivergence("x", "Add", float("nan"))], 1.0) is not None


def test_other_graphs_are_refused(write: Write, tmp_path: Path) -> None:
    model = ir.load(write("fp16"))
    for node in model.graph:
        node.name = f"other/{node.name}"
    ir.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="no node in common; give artifacts of one model"):
        measure_divergence(write("fp32"), tmp_path / "other.onnx", "fp16", IMAGES, False)
