"""Scores read from a copy of the shipped graph are those its labels come from."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.cast_precision import CastPrecisionPass
from export.score_reader import ScoreReader
from segvit.prediction import predict_scores
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import ORT_FP32_RMS


@pytest.mark.parametrize(
    ("output", "batch", "strips", "count"),
    [
        ("labels", 1, 1, 1),
        ("labels", 1, 4, 1),
        ("labels", 3, 1, 3),
        ("labels", 2, 2, 2),
        ("labels", None, 1, 3),
        ("scores", 1, 1, 1),
        ("scores", None, 1, 2),
    ],
)
def test_scores_are_the_reference_s(
    tmp_path: Path, output: str, batch: int | None, strips: int, count: int
) -> None:
    path = tmp_path / "model.onnx"
    ir.save(traced_graph("cascade", output, batch, strips), path)
    before = path.read_bytes()
    images = random_images(count, 64, 64)
    prediction = ScoreReader(path, num_classes=7)(images)
    expected = predict_scores(make_model(make_config()), images)
    assert prediction.scores.shape == (count, 7, 64, 64)
    assert relative_rms(prediction.scores, expected) < ORT_FP32_RMS
    assert (prediction.labels == prediction.scores.argmax(axis=1)).all()
    assert np.mean(prediction.labels == expected.argmax(axis=1)) > 0.999
    assert path.read_bytes() == before


def test_an_overflow_on_a_gpu_shows(tmp_path: Path) -> None:
    """A decoder whose hidden layer is 2^15 as large and whose next weights are 2^-15 as large."""
    model = traced_graph(output="scores")
    for value in model.graph.initializers.values():
        bits = 15 * ((".linear1." in str(value.name)) - (".linear2.weight" in str(value.name)))
        if bits:
            assert value.const_value is not None
            scaled = value.const_value.numpy() * np.float32(2.0**bits)
            value.const_value = ir.Tensor(scaled, name=value.name)
    images = random_images(1, 64, 64)
    expected = predict_scores(make_model(make_config()), images)
    assert relative_rms(run_graph(model, images)[0], expected) < ORT_FP32_RMS
    CastPrecisionPass(ir.DataType.FLOAT16)(model)
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    assert not np.isfinite(ScoreReader(path, num_classes=7)(images).scores).any()
