"""Sliding in the graph: the labels of `inference.score_slide`, whatever windows overlap."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from engines.audit import audit_engine
from engines.target import Target
from engines.trt_builder import BuildOptions, build_engine
from export.build import main
from export.cells import join_cells
from export.manifest import Manifest
from export.passes import check_passes, deploy_passes
from export.slide_model import SlideModel
from export.trace import trace_model
from segvit.inference import score_slide
from segvit.model import SegViT, Size
from segvit.prediction import predict_scores
from segvit.shipped import shipped_checkpoint
from tests.graphs import run_graph
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import FOLD_RELATIVE, GOLDEN_LABELS, SLIDE_LABELS


def _slide(model: SegViT, image: np.ndarray) -> np.ndarray:
    crop, stride = model.config.image_size, model.config.stride or model.config.image_size
    predict = partial(predict_scores, model)
    return score_slide(predict, image, (crop, crop), (stride, stride), model.config.mean)


def _trace(model: SegViT, size: Size, window_batch: int | None = None) -> ir.Model:
    graph = trace_model(SlideModel(model, size, window_batch), size, 1)
    for graph_pass in deploy_passes("fp32"):
        graph_pass(graph)
    return graph


@pytest.mark.parametrize(
    ("head", "changes", "size"),
    [
        ("cascade", {"stride": 43}, (100, 150)),  # windows that clamp, odd cells
        ("cascade", {"stride": 24}, (64, 130)),  # up to three windows over a pixel of one row
        ("cascade", {}, (129, 64)),  # a stride of the crop, and one row more than two windows
        ("single", {"stride": 16, "patch_size": 8}, (80, 96)),
        ("shrunk", {"stride": 43}, (64, 107)),
        ("cascade", {"stride": 30, "image_size": 56, "patch_size": 14}, (70, 97)),
    ],
)
def test_scores_and_labels_are_those_of_the_loop(
    head: str, changes: dict[str, object], size: Size
) -> None:
    model = make_model(make_config(head, **changes))
    image = random_images(1, *size)
    expected = _slide(model, image[0])
    slide = SlideModel(model, size)
    sums: list[np.ndarray] = []
    argmax = torch.Tensor.argmax

    def keep(scores: torch.Tensor, dim: int) -> torch.Tensor:
        sums.append(scores.numpy())
        return argmax(scores, dim=dim)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "argmax", keep)
        labels = slide(torch.from_numpy(image)).numpy()
    scores = join_cells(sums, slide.tail.cells, model.config.num_classes)
    assert np.abs(scores - expected).max() / np.abs(expected).max() < FOLD_RELATIVE
    assert labels.shape == (1, *size)
    assert (labels[0] == expected.argmax(axis=0)).mean() >= GOLDEN_LABELS


def test_windows_in_batches_change_no_label() -> None:
    model = make_model(make_config(stride=43))
    image = random_images(1, 100, 64)
    with torch.no_grad():
        whole, parts = (
            SlideModel(model, (100, 64), count)(torch.from_numpy(image)).numpy()
            for count in (None, 1)
        )
    np.testing.assert_array_equal(whole, parts)


def test_the_graph_gives_the_loop_s_labels_and_names_its_parts() -> None:
    model = make_model(make_config(stride=43))
    size = (64, 107)
    image = random_images(1, *size)
    graph = _trace(model, size)
    names = {str(node.name) for node in graph.graph}
    assert {"encoder/0/qkv/MatMul", "tail/ArgMax", "tail/ArgMax_2"} <= names
    labels = run_graph(graph, image)[0]
    expected = _slide(model, image[0])
    assert labels.dtype == np.uint8
    assert (labels[0] == expected.argmax(axis=0)).mean() >= GOLDEN_LABELS
    for check_pass in check_passes():
        check_pass(graph)
    cells = SlideModel(model, size).tail.cells
    _, *parts = run_graph(graph, image)
    scores = join_cells(parts, cells, model.config.num_classes)
    assert np.abs(scores - expected).max() / np.abs(expected).max() < FOLD_RELATIVE


@pytest.mark.trt_rtx
def test_a_cell_takes_few_kernels_and_attention_stays_fused(tmp_path: Path) -> None:
    model = make_model(make_config(stride=48, embed_dim=96))
    graph = trace_model(SlideModel(model, (64, 112)), (64, 112), 1)
    for graph_pass in deploy_passes("fp16"):
        graph_pass(graph)
    path = tmp_path / "slide.onnx"
    ir.save(graph, path)
    engine = build_engine(path, Target.TRT_RTX, ("SM89",), BuildOptions(), progress=False)
    audit = audit_engine(engine, path)
    assert audit.fused_attentions == audit.attentions
    # Three cells; 44 of ViT-B take 280, and two windows stitched by padding would move far more.
    assert audit.summary().parts["tail"].kernels <= 3 * 8


def test_an_image_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="image size 63x90: expected at least one window, 64x64"):
        SlideModel(make_model(make_config()), (63, 90))


@pytest.mark.slow
def test_a_slide_build_is_proven_and_says_what_it_is(tmp_path: Path) -> None:
    checkpoint = shipped_checkpoint("vit_t_landcover")
    options = ["--checkpoint", str(checkpoint), "--fp16", "--mode", "slide", "--image-size",
               "256x400", "--num-images", "2", "--target", "ort"]  # fmt: skip
    assert main([*options, "--out", str(tmp_path / "slide")]) == 0
    manifest = Manifest.read(tmp_path / "slide")
    assert manifest.mode == "slide"
    assert "--mode=slide --image-size=256x400" in manifest.command
    assert manifest.input.shape == (1, 256, 400, 3)
    assert manifest.outputs[0].shape == (1, 256, 400)
    assert manifest.parity is not None
    assert manifest.parity.pixel_agreement is not None
    assert manifest.parity.pixel_agreement >= SLIDE_LABELS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "slide"], "say how large images are with --image-size"),
        (["--image-size", "512x1024"], "--image-size: only with --mode slide"),
        (["--window-batch", "2"], "--window-batch: only with --mode slide"),
        (["--size", "256"], "not with --size: windows have the size"),
        (["--batch", "2"], "not with --batch: it takes one image a call"),
        (["--output", "scores"], "not with --output scores: it gives labels"),
        (["--tail-strips", "2"], "not with --tail-strips"),
        (["--int8", "--max-miou-drop", "1"], "not with --max-miou-drop"),
        (["--int8", "--window-batch", "2"], "not with --window-batch in INT8 or FP8"),
    ],
)
def test_options_that_make_no_sense(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if message.startswith(("not", "say")) and "--mode" not in options:
        options = ["--mode", "slide", "--image-size", "512x1024", *options]
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
