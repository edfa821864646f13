"""The part of `export.build` that looks for values too large for 16 bits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from export.check_images import CheckImages
from export.manifest import Manifest, hash_file
from export.range_preflight import (
    check_ranges,
    describe_ranges,
    measure_ranges,
    summarize_ranges,
)
from segvit.atomic import write_bytes
from segvit.memory import release_memory

RANGES_NAME = "headroom.json"
# One image in so many is looked at: magnitudes differ little between images, a bit in 64.
_IMAGES_A_LOOK = 8


def preflight_ranges(
    arguments: argparse.Namespace,
    check: CheckImages,
    manifest: Manifest,
    path: Path,
    say: Callable[[str], None],
) -> Manifest:
    """Measure how large the values of a 16-bit graph become; return the manifest with the result.

    Every layer's figures go to `headroom.json` beside the graph, the manifest keeps each kind's
    nearest layer.

    Args:
        path: the ONNX file, in the artifact's folder.

    Raises:
        ParityError: if a value is beyond its datatype.
    """
    if arguments.precision == "fp32":
        return manifest
    count, batch = len(check.images), arguments.batch[1]
    chosen = np.arange(0, count, _IMAGES_A_LOOK)
    filled = np.resize(chosen, -(-len(chosen) // batch) * batch)
    ranges = measure_ranges(path, check.images[filled], batch)
    release_memory()
    if not ranges:
        return manifest
    say(
        f"headroom on {len(chosen)} of {check.source}, in bits below overflow: "
        f"{describe_ranges(ranges)}"
    )
    warnings = check_ranges(ranges, arguments.precision, arguments.attention == "fp16-sums")
    target = path.parent / RANGES_NAME
    write_bytes(target, json.dumps([asdict(layer) for layer in ranges], indent=1).encode())
    return replace(
        manifest,
        files=manifest.files | {RANGES_NAME: hash_file(target)},
        ranges=summarize_ranges(ranges),
        warnings=manifest.warnings + warnings,
    )
