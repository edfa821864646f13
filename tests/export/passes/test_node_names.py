"""Naming changes names alone, once."""

from export.deploy import DeployModel
from export.passes.node_names import NodeNamesPass
from export.trace import trace_model
from tests.graphs import run_graph
from tests.tiny_models import make_config, make_model, random_images


def test_names_once_and_changes_no_number() -> None:
    model = trace_model(DeployModel(make_model(make_config()), (64, 64)), (64, 64), 1)
    images = random_images(1, 64, 64)
    (before,) = run_graph(model, images)
    operators = [node.op_type for node in model.graph]
    assert NodeNamesPass()(model).modified
    assert not NodeNamesPass()(model).modified
    assert [node.op_type for node in model.graph] == operators
    assert (run_graph(model, images)[0] == before).all()
    assert [value.name for value in model.graph.outputs] == ["labels"]


def test_no_trace_of_the_machine_is_left() -> None:
    model = trace_model(DeployModel(make_model(make_config()), (64, 64)), (64, 64), 1)
    NodeNamesPass()(model)
    values = [value for node in model.graph for value in node.outputs]
    assert not any(item.metadata_props for item in (*model.graph, *values, model.graph))
