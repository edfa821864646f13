"""A failed gate is told by the first layer that is not finite, else by where it diverges most."""

from export.layer_divergence import LayerDivergence, describe_worst


def _layers(*errors: float) -> list[LayerDivergence]:
    return [LayerDivergence(f"layer/{index}", "Add", error) for index, error in enumerate(errors)]


def test_first_layer_that_is_not_finite_comes_before_all_others() -> None:
    found = describe_worst(_layers(1e-3, 0.9, float("inf"), float("nan")))
    assert found == "the first layer that is not finite is 'layer/2'"


def test_layer_where_the_error_begins_is_named_not_where_it_peaks() -> None:
    found = describe_worst(_layers(1e-4, 2e-3, 0.15, 0.12, 0.2, 0.05))
    assert found.startswith("the layers that diverge most begin with 'layer/2', off by 1.5e-01")


def test_nothing_to_compare_is_said() -> None:
    assert describe_worst([]) == "no layer of it could be compared"
