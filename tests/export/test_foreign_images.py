"""Models of other classes than land cover's are not proven on satellite tiles by accident."""

import argparse
from pathlib import Path

import pytest

from export.foreign_images import find_foreign_use
from segvit.config import find_variant
from tests.tiny_models import make_config

LANDCOVER = find_variant("vit_t_landcover").class_names
FOREIGN = make_config().class_names


def _ask(class_names: tuple[str, ...], precision: str = "fp16", **given: object) -> str:
    asked: dict[str, object] = {
        "images": None, "calibration_images": None, "ranges": None, "random_weights": False,
        "allow_foreign_images": False,
    }  # fmt: skip
    arguments = argparse.Namespace(**(asked | given))
    return find_foreign_use(arguments, "mine", class_names, precision in ("int8", "fp8"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_leave_is_needed(precision: str) -> None:
    own = {"images": Path("a"), "calibration_images": Path("b")}
    assert _ask(LANDCOVER, precision) == ""
    assert _ask(FOREIGN, precision, random_weights=True) == ""
    assert _ask(FOREIGN, precision, **own) == ""
    assert _ask(FOREIGN, precision, images=Path("a"), ranges=Path("r.json")) == ""


@pytest.mark.parametrize(
    ("precision", "given", "message"),
    [
        ("fp16", {}, "'mine' would be verified on satellite tiles, .* give --images DIR of the"),
        ("int8", {}, "verified and calibrated on .* give --images DIR and --calibration-images "),
        ("fp8", {"images": Path("a")}, "would be calibrated on .* give --calibration-images DIR"),
        ("int8", {"ranges": Path("r.json")}, "would be verified on .* give --images DIR of the"),
    ],
)
def test_satellite_tiles_are_refused_and_allowed(
    precision: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _ask(FOREIGN, precision, **given)
    assert "or --allow-foreign-images" in str(caught.value)
    allowed = _ask(FOREIGN, precision, allow_foreign_images=True, **given)
    assert "on satellite tiles, which its classes were not made for" in allowed
