"""The exposed scores are those the labels come from."""

import numpy as np
import pytest

from export.passes.score_outputs import ScoreOutputsPass
from tests.graphs import run_graph, traced_graph
from tests.tiny_models import random_images


@pytest.mark.parametrize("strips", [1, 4])
def test_labels_are_the_best_of_the_scores(strips: int) -> None:
    model = traced_graph(strips=strips)
    assert ScoreOutputsPass()(model).modified
    labels, *scores = run_graph(model, random_images(1, 64, 64))
    assert len(scores) == strips
    joined = np.concatenate(scores, axis=-1)
    assert (joined.argmax(axis=1).reshape(labels.shape) == labels).all()


def test_twice_is_once_and_scores_need_nothing() -> None:
    model = traced_graph()
    ScoreOutputsPass()(model)
    assert not ScoreOutputsPass()(model).modified
    assert not ScoreOutputsPass()(traced_graph(output="scores")).modified
