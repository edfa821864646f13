"""Options that the command line chooses, and keeps in the command that the manifest tells."""

import pytest

from export.build_options import parse_arguments, public_arguments
from export.parity_text import suggest_fix


@pytest.mark.parametrize(
    ("given", "attention", "allows_unfused"),
    [
        (("--fp32",), None, False),
        (("--fp16",), "fp32-sums", False),
        (("--bf16", "--attention", "fp16-sums"), "fp16-sums", False),
        (("--int8", "--attention", "unfused"), "unfused", True),
        (("--int8", "--target", "ort"), None, False),
    ],
)
def test_the_form_of_attention_is_chosen_and_kept(
    given: tuple[str, ...], attention: str | None, allows_unfused: bool
) -> None:
    arguments = parse_arguments(given)
    assert (arguments.attention, arguments.allow_unfused) == (attention, allows_unfused)
    kept = [*public_arguments(arguments), "--target", *(arguments.target or ["auto"])]
    assert parse_arguments(kept).attention == attention


@pytest.mark.parametrize("precision", ["--fp16", "--bf16", "--int8", "--fp8"])
def test_sums_in_half_that_fail_are_told_of_wide_ones(precision: str) -> None:
    told = suggest_fix(parse_arguments([precision, "--attention", "fp16-sums"]))
    assert told is not None
    assert "--attention fp32-sums" in told
    assert precision not in told
    for form in ([], ["--attention", "unfused"]):
        assert "--attention" not in (suggest_fix(parse_arguments([precision, *form])) or "")
