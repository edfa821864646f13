"""The exact rewrites that make a float graph lose less when it is quantised, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from calibration.collect import Images, collect_ranges
from calibration.outlier_migration import OutlierMigrationPass, find_exponents, list_migratable
from calibration.qkv_equalisation import QkvEqualisationPass
from calibration.scheme import Scheme

Rewrite = Literal["migration", "equalisation"]
REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)

# A channel's outliers are the same in every image, so a few show them.
_IMAGES = 32


def check_rewrites(rewrites: Sequence[str]) -> None:
    """Raise ValueError for a name that is no rewrite's."""
    unknown = [name for name in rewrites if name not in REWRITES]
    if unknown:
        raise ValueError(f"rewrite '{unknown[0]}': expected one of {', '.join(REWRITES)}")


def find_rewrites(scheme: Scheme) -> tuple[Rewrite, ...]:
    """Return the rewrites that lower what a scheme costs, as measured.

    In INT8, equalisation takes a tenth to a sixth off the land-cover models' score errors (2.80e-3
    to 2.53e-3, 1.73e-3 to 1.46e-3, 12 test tiles); migration takes and gives as much (2.75e-3,
    1.87e-3), for their norms have no outliers, and is for models whose do. FP8's steps grow with
    the value, so both only deal its errors anew, for better or worse (6.13e-3 to 5.84e-3, 4.89e-3
    to 6.86e-3 by equalisation).
    """
    return ("equalisation",) if scheme.dtype == ir.DataType.INT8 else ()


def find_migration(
    model: ir.Model, scheme: Scheme, images: Images, progress: bool
) -> dict[str, tuple[int, ...]]:
    """Return the exponents to migrate by, of each norm that only quantised products read.

    Args:
        model: the float graph; left as it is.
        scheme: what is quantised.
        images: `(n, H, W, 3)`; evenly spaced ones of them serve.
        progress: show a bar.
    """
    norms = list_migratable(model.graph, scheme)
    if not norms:
        return {}
    count = min(_IMAGES, len(images))
    chosen = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    collected = collect_ranges(
        model, (), (images[index : index + 1] for index in chosen), "amax", scheme.largest,
        progress, norms, total=count,
    )  # fmt: skip
    return find_exponents(model.graph, collected.channel_amax)


def rewrite_model(
    model: ir.Model,
    scheme: Scheme,
    rewrites: Sequence[str],
    migration: Mapping[str, Sequence[int]],
) -> None:
    """Rewrite a float graph in place; it computes what it did.

    Migration comes first: it changes the columns that equalisation evens out.

    Raises:
        ValueError: if a rewrite is unknown.
    """
    check_rewrites(rewrites)
    if "migration" in rewrites:
        OutlierMigrationPass(migration)(model)
    if "equalisation" in rewrites:
        QkvEqualisationPass(scheme)(model)
