"""Scores read from a copy of the shipped graph are those its labels come from."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.score_reader import ScoreReader
from segvit.prediction import predict_scores
from tests.graphs import relative_rms, traced_graph
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
