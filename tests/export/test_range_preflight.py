"""What the preflight says of a graph's values is what they are, and where they end it says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.build_graph import trace_graph
from export.build_options import parse_arguments
from export.check_images import load_check_images
from export.deploy import DeployModel
from export.layer_divergence import WrittenGraph
from export.manifest import ValueRange
from export.passes import deploy_passes
from export.range_preflight import (
    ATTENTION_BOUND,
    ATTENTION_SUM,
    check_ranges,
    describe_ranges,
    measure_ranges,
    summarize_ranges,
)
from export.trace import trace_model
from export.verify import ParityError
from segvit.checkpoint import load_checkpoint
from segvit.config import find_variant
from segvit.model import SegViT, build_model
from segvit.prediction import predict_scores
from segvit.shipped import shipped_checkpoint
from tests.graphs import traced_graph
from tests.rescaled_checkpoints import rescale_model
from tests.tiny_models import make_config, make_model, random_images

IMAGES = random_images(2, 64, 64)


def _save(model: ir.Model, precision: str, path: Path) -> Path:
    for graph_pass in deploy_passes(precision):
        graph_pass(model)
    ir.save(model, path)
    return path


def _trace(model: SegViT, precision: str, path: Path) -> Path:
    return _save(
        trace_model(DeployModel(model, (64, 64), "labels", 1), (64, 64), 1), precision, path
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(traced_graph(), "fp16", tmp_path_factory.mktemp("graphs") / "model.onnx")


def test_largest_values_are_those_of_every_layer(tiny: Path) -> None:
    ranges = measure_ranges(tiny, IMAGES, 1)
    stored = {r.layer: r for r in ranges if r.kind not in (ATTENTION_SUM, ATTENTION_BOUND)}
    graph = WrittenGraph(tiny)
    names = [name for name in graph.taps if name in stored]
    found = [graph.run(names, image[None]) for image in IMAGES]
    assert len(names) > 100
    for name in names:
        if graph.taps[name].op_type != "Split":  # the value that is read is not the first
            largest = max(np.abs(values[name]).max() for values in found)
            assert stored[name].largest == pytest.approx(largest, rel=0.02, abs=1e-3)
            assert stored[name].headroom_bits == pytest.approx(
                np.log2(65504 / stored[name].largest)
            )


def test_attention_sum_lies_between_its_output_and_its_bound(tiny: Path) -> None:
    ranges = measure_ranges(tiny, IMAGES, 1)
    # A sum that is kept in FP32 is stored by a Cast behind it.
    by_kind = {kind: {r.layer.removesuffix("/result"): r.largest for r in ranges if r.kind == kind}
               for kind in ("attention output", ATTENTION_SUM, ATTENTION_BOUND)}  # fmt: skip
    assert by_kind["attention output"].keys() == by_kind[ATTENTION_BOUND].keys()
    for layer, output in by_kind["attention output"].items():
        assert output <= by_kind[ATTENTION_SUM][layer] <= by_kind[ATTENTION_BOUND][layer] * 1.0001


def test_padded_classes_are_no_alarm(tiny: Path) -> None:
    model = ir.load(tiny)
    bias = next(v for v in model.graph.initializers.values() if "classifier.linear.bias" in v.name)
    assert bias.const_value is not None
    kinds = {r.kind: r for r in summarize_ranges(measure_ranges(tiny, IMAGES, 1))}
    assert kinds["class logits"].largest < 1000


@pytest.mark.parametrize(
    ("rescaling", "precision", "layer", "advice"),
    [
        (("decoder hidden", 15), "fp16", "head/stages/0/0/linear1", "--fp32"),
        (("decoder hidden", 15), "bf16", "head/stages/0/0/linear1", "--fp32"),
        (("residual", 14), "fp16", "patch_embed/", "--bf16"),
        # The head reads the stream in FP16.
        (("residual", 14), "bf16", r"encoder/\d/Add_1", "--fp32"),
    ],
)  # fmt: skip
def test_first_layer_that_overflows_is_named(
    rescaling: tuple[str, int], precision: str, layer: str, advice: str, tmp_path: Path
) -> None:
    model = rescale_model(make_model(make_config()), *rescaling)
    path = _trace(model, precision, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=f"^{precision} overflows in '{layer}.*FLOAT16 ends at "
                       f"65504; build with {advice}, or scale"):  # fmt: skip
        check_ranges(measure_ranges(path, IMAGES, 1), precision)


def test_little_headroom_is_a_warning_that_names_the_layer(tiny: Path) -> None:
    ranges = measure_ranges(tiny, IMAGES, 1)
    assert check_ranges(ranges, "fp16") == ()
    index = next(i for i, r in enumerate(ranges) if r.kind == "MLP hidden")
    near = replace(ranges[index], largest=30000.0, headroom_bits=float(np.log2(65504 / 30000)))
    (warning,) = check_ranges([*ranges[:index], near, *ranges[index + 1 :]], "fp16")
    assert f"'{near.layer}' (MLP hidden) reaches 3e+04, 1.1 bits below the end" in warning
    assert "--bf16" in warning
    assert "MLP hidden 1.1" in describe_ranges([near])


def test_sums_in_fp16_are_an_error_only_where_they_are_asked_for() -> None:
    total = ValueRange(ATTENTION_SUM, "encoder/0/MatMul_1", 1e5, "FLOAT16", -0.6)
    (warning,) = check_ranges([total], "fp16")
    assert "--attention fp32-sums" in warning
    with pytest.raises(ParityError, match=r"encoder/0/MatMul_1.*--attention fp32-sums"):
        check_ranges([total], "fp16", half_sums=True)


def test_float32_graph_has_no_ranges(tmp_path: Path) -> None:
    assert measure_ranges(_save(traced_graph(), "fp32", tmp_path / "m.onnx"), IMAGES, 1) == ()


def test_headroom_of_the_shipped_model(tmp_path: Path) -> None:
    """Bits to 65,504: figures of another implementation, taken on 64 tiles."""
    model = load_checkpoint(shipped_checkpoint("vit_t_landcover"))
    graph = trace_graph(parse_arguments(["--fp16"]), model, (256, 256))
    path = _save(graph, "fp16", tmp_path / "model.onnx")
    images = load_check_images(None, model.config, (256, 256), 8, 0).images
    found = {r.kind: r.headroom_bits for r in summarize_ranges(measure_ranges(path, images, 1))}
    expected = {"residual": 12.0, "attention logits": 10.3, "MLP hidden": 13.3,
                "decoder hidden": 14.2, ATTENTION_SUM: 6.7}  # fmt: skip
    assert {kind: found[kind] for kind in expected} == pytest.approx(expected, abs=0.35)
    assert found[ATTENTION_BOUND] == pytest.approx(6.1, abs=0.35)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("vit_b_ade20k", 64), ("dinov2_b_ade20k", 56)])
def test_headroom_is_what_pytorch_computes(name: str, side: int, tmp_path: Path) -> None:
    """Whole models, on images of a few patches: every kind against PyTorch's own float32 values."""
    torch.manual_seed(0)
    model = build_model(find_variant(name))
    images = random_images(2, side, side)
    largest: dict[str, float] = {}

    def watch(kind: str, module: torch.nn.Module) -> None:
        def keep(_module: object, _inputs: object, output: object) -> None:
            tokens = (
                output[0] if isinstance(output, tuple) else output
            )  # a block gives its grid too
            largest[kind] = max(largest.get(kind, 0.0), float(tokens.abs().max()))

        module.register_forward_hook(keep)

    for block in model.backbone.blocks:
        watch("residual", block)
        watch("MLP hidden", block.mlp.fc1)
    for layer in (module for stage in model.decode_head.stages for module in stage):
        watch("decoder hidden", layer.linear1)
    for projection in model.decode_head.projections:
        watch("head projection", projection.linear)
    predict_scores(model, images)
    graph = trace_model(DeployModel(model, (side, side), "labels", 1), (side, side), 1)
    for graph_pass in deploy_passes("fp16"):
        graph_pass(graph)
    ir.save(graph, tmp_path / "model.onnx", external_data="weights")
    ranges = measure_ranges(tmp_path / "model.onnx", images, 1)
    found = {r.kind: r.headroom_bits for r in summarize_ranges(ranges)}
    expected = {kind: np.log2(65504 / value) for kind, value in largest.items()}
    assert len(expected) == 4
    # Rounding to 11 bits, and residuals between a block's two halves, which PyTorch does not show.
    assert {kind: found[kind] for kind in expected} == pytest.approx(expected, abs=0.3)
    assert found[ATTENTION_BOUND] < found[ATTENTION_SUM] + 1e-3
