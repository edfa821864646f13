"""Resizing in the graph: pixels as OpenCV's, labels as the segment tool's."""

from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch

from engines.audit import audit_engine
from engines.target import Target
from engines.trt_builder import BuildOptions, build_engine
from export.build import main
from export.deploy import DeployModel
from export.manifest import Manifest
from export.passes import deploy_passes
from export.resize import LabelResize, PixelResize
from export.slide_model import SlideModel
from export.trace import trace_model
from segvit.images import resize_labels
from segvit.model import Size
from tests.graphs import run_graph
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import GOLDEN_LABELS

SIZES = [
    ((90, 161), (64, 64)),
    ((48, 40), (64, 96)),  # larger, and clamped at every edge
    ((64, 200), (64, 96)),  # one side as it is
    ((1080, 1920), (256, 512)),
    ((7, 1), (64, 64)),
]


def _trace(model: DeployModel, size: Size, precision: str) -> ir.Model:
    graph = trace_model(model, size, 1)
    for graph_pass in deploy_passes(precision):
        graph_pass(graph)
    return graph


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_pixels_are_opencv_s_within_a_grey_level(source: Size, size: Size) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, *source, 3), np.uint8)
    got = PixelResize(source, size)(torch.from_numpy(image)).numpy()[0]
    expected = cv2.resize(image[0], size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(got, got.round())
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() > 0.99  # the last bit of a weight may differ


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_labels_are_those_of_the_nearest_pixel(source: Size, size: Size) -> None:
    labels = np.random.default_rng(0).integers(0, 150, size)
    got = LabelResize(size, source, torch.uint8)(torch.from_numpy(labels)[None])
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy()[0], resize_labels(labels, source))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_labels_what_was_resized_before(precision: str) -> None:
    model = make_model(make_config())
    source, size = (90, 161), (64, 64)
    image = random_images(1, *source)
    resized = cv2.resize(image[0], size[::-1], interpolation=cv2.INTER_LINEAR)
    graph = _trace(DeployModel(model, size, resize_from=source), source, precision)
    assert "resize/Floor" in {str(node.name) for node in graph.graph}
    got = run_graph(graph, image)[0]
    expected = run_graph(_trace(DeployModel(model, size), size, precision), resized[None])[0]
    assert got.dtype == np.uint8
    assert got.shape == (1, *source)
    # Some pixels differ by a grey level, and this model's labels are near ties.
    assert (got[0] == resize_labels(expected[0], source)).mean() > 0.98


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_pixels_of_16_bit_builds_are_resized_in_32(precision: str) -> None:
    source, size = (90, 161), (64, 64)
    model = make_model(make_config())
    graph = _trace(DeployModel(model, size, resize_from=source), source, precision)
    nodes = [n for n in graph.graph if str(n.name).startswith("resize/") and n.op_type != "Cast"]
    assert len(nodes) > 10
    assert {n.outputs[0].dtype for n in nodes} == {ir.DataType.FLOAT}


def test_windows_slide_over_the_resized_image() -> None:
    model = make_model(make_config(stride=43))
    source, size = (120, 200), (64, 107)
    image = random_images(1, *source)
    resized = PixelResize(source, size)(torch.from_numpy(image)).to(torch.uint8)
    with torch.no_grad():
        got = SlideModel(model, size, resize_from=source)(torch.from_numpy(image))[0].numpy()
        expected = SlideModel(model, size)(resized)[0].numpy()
    assert (got == resize_labels(expected, source)).mean() >= GOLDEN_LABELS


@pytest.mark.trt_rtx
def test_resizing_takes_no_kernel_more(tmp_path: Path) -> None:
    model = make_model(make_config(embed_dim=96))
    size, kernels = (64, 64), []
    for source in (None, (180, 320)):
        graph = _trace(DeployModel(model, size, resize_from=source), source or size, "fp16")
        path = tmp_path / f"{source is None}.onnx"
        ir.save(graph, path)
        engine = build_engine(path, Target.TRT_RTX, ("SM89",), BuildOptions(), progress=False)
        kernels.append(audit_engine(engine, path).summary().kernels)
    assert kernels[1] <= kernels[0] + 1


@pytest.mark.slow
def test_a_build_takes_images_of_another_size(tmp_path: Path) -> None:
    options = ["--model", "vit_t_landcover", "--fp16", "--resize-from", "200x304"]
    options += ["--num-images", "2", "--target", "ort", "--out", str(tmp_path / "resized")]
    assert main(options) == 0
    manifest = Manifest.read(tmp_path / "resized")
    assert "--resize-from=200x304" in manifest.command
    assert manifest.input.shape == (1, 200, 304, 3)
    assert manifest.outputs[0].shape == (1, 200, 304)
    assert manifest.parity is not None
    assert manifest.parity.pixel_agreement is not None
    assert manifest.parity.pixel_agreement >= 0.999


@pytest.mark.parametrize("options", [["--output", "scores"], ["--int8", "--max-miou-drop", "1"]])
def test_options_that_make_no_sense(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--resize-from", "200x304", *options])
    assert caught.value.code == 2
    assert f"--resize-from: not with {options[-2]}" in capsys.readouterr().err
