"""Traced graphs give the model's own output, with the shapes and names promised."""

import gc
import re
import weakref
from inspect import unwrap

import pytest
import torch

from export.deploy import DeployModel
from export.trace import trace_model
from tests.graphs import relative_rms, run_graph, traced_graph
from tests.tiny_models import make_config, make_model, random_images
from tests.tolerances import ORT_FP32_RMS


@pytest.mark.parametrize("head", ["cascade", "single", "shrunk"])
def test_scores_equal_the_deployable_model(head: str) -> None:
    images = random_images(1, 64, 64)
    with torch.no_grad():
        deploy = DeployModel(make_model(make_config(head)), (64, 64), "scores")
        expected = deploy(torch.from_numpy(images)).numpy()
    (got,) = run_graph(traced_graph(head, "scores"), images)
    assert relative_rms(got, expected) < ORT_FP32_RMS


def test_dynamic_batch_is_symbolic_and_works_at_any_size() -> None:
    model = traced_graph(batch=None)
    assert str(model.graph.inputs[0].shape[0]) == "batch"
    assert str(model.graph.outputs[0].shape[0]) == "batch"
    images = random_images(5, 64, 64)
    (labels,) = run_graph(model, images)
    for count in (1, 3):
        (part,) = run_graph(traced_graph(batch=None), images[:count])
        assert (part == labels[:count]).all()


def test_static_batch_is_cut_into_images_in_order() -> None:
    images = random_images(2, 64, 64)
    (together,) = run_graph(traced_graph(batch=2), images)
    for index in range(2):
        (alone,) = run_graph(traced_graph(batch=1), images[index : index + 1])
        assert (together[index] == alone[0]).all()


def test_contract_of_inputs_and_outputs() -> None:
    model = traced_graph()
    (image,), (labels,) = model.graph.inputs, model.graph.outputs
    assert (image.name, image.dtype.name, list(image.shape)) == ("image", "UINT8", [1, 64, 64, 3])
    assert (labels.name, labels.dtype.name, list(labels.shape)) == ("labels", "UINT8", [1, 64, 64])
    assert model.graph.opset_imports[""] == 20


def test_names_lead_to_the_module() -> None:
    names = [node.name for node in traced_graph().graph]
    assert len(set(names)) == len(names)
    for expected in (
        "patch_embed/linear/MatMul",
        "encoder/3/fc1/MatMul",
        "encoder/0/Softmax",
        "head/stages/2/1/mask_query/MatMul",
        "tail/ArgMax",
    ):
        assert expected in names
    assert all(re.match(r"(patch_embed|encoder|head|tail)/", name or "") for name in names)


def test_dead_outputs_and_constant_queries_are_gone() -> None:
    names = [node.name or "" for node in traced_graph("cascade").graph]
    # Masks are read from the last layer of each stage, classes from the last stage alone.
    assert sum("mask_query" in name and "MatMul" in name for name in names) == 3
    assert sum("classifier" in name and "MatMul" in name for name in names) == 1
    assert not any(name.startswith("head/stages/0/0/self_attn") for name in names)


def test_weights_go_with_the_graph() -> None:
    deploy = DeployModel(make_model(make_config()), (64, 64))
    weights = [weakref.ref(w) for w in deploy.parameters() if w.ndim == 2]
    graph = unwrap(trace_model)(deploy, (64, 64), batch=1)
    del deploy
    gc.collect()
    assert any(weight() is not None for weight in weights)
    del graph
    gc.collect()
    assert all(weight() is None for weight in weights)
