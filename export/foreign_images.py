"""Whether a build would rest on satellite tiles though its classes are not land cover's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from export.check_images import has_landcover_classes

UNNEEDED = "--allow-foreign-images: there was nothing to allow, no foreign images were used"


def find_foreign_use(
    arguments: argparse.Namespace, name: str, class_names: Sequence[str], calibrates: bool
) -> str:
    """Return what to warn of where images are not of the model's kind, nothing where they are.

    Random weights segment nothing: whatever images they are gated on, scores are all that counts.

    Args:
        arguments: of `export.build`.
        name: of the model.
        class_names: of the model.
        calibrates: whether the precision takes ranges from images.

    Raises:
        ValueError: if satellite tiles were not allowed; the message says what to give.
    """
    if arguments.random_weights or has_landcover_classes(class_names):
        return ""
    foreign = {} if arguments.images else {"verified": "--images DIR"}
    if calibrates and not (arguments.calibration_images or arguments.ranges):
        foreign["calibrated"] = "--calibration-images DIR"
    what = " and ".join(foreign)
    if foreign and not arguments.allow_foreign_images:
        raise ValueError(
            f"model '{name}' would be {what} on satellite tiles, which its classes were not made "
            f"for; give {' and '.join(foreign.values())} of the kind it will see (--masks DIR too, "
            "where there are some), or --allow-foreign-images"
        )
    if not foreign:
        return ""
    return (
        f"model '{name}' was {what} on satellite tiles, which its classes were not made for: "
        "this says little about the images that it will see"
    )
