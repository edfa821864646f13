"""`python -m benchmarks.parity`: what artifacts change of the reference's labels, and where.

The JSON, `schema` 1; shares and IoU are fractions, intervals `[low, high]` of 95 % from a paired
bootstrap over images, None of fewer than two:

- `command`, `machine`, `reference`, `data` (`source`, `images`, `size` HxW, `truth`: `masks`, or
  `reference` where there are none and IoU is against the reference's own labels), `resamples`,
  `seed`, `notes`.
- `artifacts`, one entry an artifact and target: `artifact`, `target`, `precision`, `images`,
  `pixels`, `pixel_agreement`, `miou_reference`, `miou`, `miou_delta` (artifact less reference), the
  intervals `pixel_agreement_interval` and `miou_delta_interval`; `classes` (`name`,
  `iou_reference`, `iou`, `iou_delta`, `iou_delta_interval`); `changed` (`pixels`, `share`, `moves`:
  `from`, `to`, `pixels`, `share` of the changed; `boundary_distance`: `within_pixels`,
  `changed_share`, `all_share`), distances being to the reference's boundaries.
- `stability`, one entry a pair of artifacts of one command: `artifacts`, `target`, `files_equal`,
  `files_different` (names), `pixels_different`.
- `bisect`, with that option, one entry an artifact: `artifact`, `target`, `precision`, `threshold`,
  `images`, `first` (None, or `name`, `op_type`, `relative_rms`), `layers` of the same keys in graph
  order.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.boundaries import measure_boundary_distance
from benchmarks.divergence import measure_divergence
from benchmarks.machine import describe_machine
from benchmarks.parity_counts import ParityTally, count_classes
from benchmarks.parity_images import FolderChoice, ParityImages, open_chosen, open_landcover
from benchmarks.parity_options import parse_arguments
from benchmarks.parity_table import SCHEMA, format_report
from benchmarks.result_files import describe_command, write_result
from engines.runtime import Runtime, infer_all, open_runtime
from engines.target import Target
from export.layer_divergence import LayerDivergence, find_first
from export.manifest import Manifest, verify_file
from export.verify import GATES
from segvit.images import Labels
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

ONNX_NAME = "model.onnx"
Label = Callable[[NDArray[np.uint8]], Labels]  # images (B, H, W, 3) to labels (B, H, W)


@dataclass(frozen=True)
class Candidate:
    """An artifact on one target, what labels images with it, and what is counted."""

    folder: Path
    manifest: Manifest
    target: str
    label: Label
    tally: ParityTally


def main(argv: Sequence[str] | None = None) -> int:
    """Compare artifacts with their reference; return the exit code."""
    arguments = parse_arguments(argv)
    manifests = _read_manifests(arguments)
    first = manifests[arguments.artifact[0]]
    images = _open_images(arguments, first)
    progress = not arguments.json
    with ExitStack() as stack:
        reference, label = _open_reference(arguments, first, stack)
        candidates = [
            _open_candidate(folder, manifest, target, arguments.device, stack)
            for folder, manifest in manifests.items() if folder != arguments.reference
            for target in arguments.target
        ]  # fmt: skip
        different = _count_all(label, candidates, images, progress)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "command": describe_command("benchmarks.parity", argv),
        "machine": describe_machine(),
        "reference": reference,
        "data": {
            "source": images.source,
            "images": images.count,
            "size": "x".join(map(str, first.input.shape[1:3])),
            "truth": "masks" if images.has_truth else "reference",
        },
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "notes": _list_notes(first, images),
        "artifacts": [_summarise(candidate, arguments) for candidate in candidates],
        "stability": [
            _describe_pair(candidates[a], candidates[b], pixels)
            for (a, b), pixels in different.items()
        ],
    }
    if arguments.bisect:
        report["bisect"] = _bisect_all(arguments, manifests, images)
    if arguments.out:
        write_result(arguments.out, report)
    print(json.dumps(report, indent=2) if arguments.json else format_report(report))
    if arguments.out and not arguments.json:
        print(f"wrote {arguments.out}")
    return 0


def _read_manifests(arguments: argparse.Namespace) -> dict[Path, Manifest]:
    """Return the manifests of all artifacts, the reference's too, by folder.

    Raises:
        ValueError: if they are not of one model, size and checkpoint.
    """
    folders = [*arguments.artifact, *([arguments.reference] if arguments.reference else [])]
    manifests = {folder: Manifest.read(folder) for folder in dict.fromkeys(folders)}
    base, first = next(iter(manifests.items()))
    for folder, manifest in manifests.items():
        for what, wanted, got in (
            ("model", first.model.name, manifest.model.name),
            ("checkpoint", first.model.checkpoint_sha256, manifest.model.checkpoint_sha256),
            ("classes", first.classes, manifest.classes),
            ("input", first.input.shape[1:], manifest.input.shape[1:]),
            ("mode", first.mode, manifest.mode),
            ("seed of random weights", _find_seed(first), _find_seed(manifest)),
        ):
            if wanted != got:
                raise ValueError(
                    f"'{folder}' cannot be compared with '{base}': another {what}, expected "
                    f"{wanted}, got {got}; give artifacts of one model, checkpoint and size"
                )
    return manifests


def _find_seed(manifest: Manifest) -> str | None:
    """Return the option that drew random weights, None where a checkpoint gave them."""
    options = shlex.split(manifest.command) if manifest.model.random_weights else []
    return next((option for option in options if option.startswith("--seed=")), None)


def _open_images(arguments: argparse.Namespace, manifest: Manifest) -> ParityImages:
    if arguments.images is None:
        return open_landcover(manifest, arguments.split, arguments.num_images, arguments.seed)
    choice = FolderChoice(
        arguments.images, arguments.masks, arguments.classes, arguments.reduce_zero_label
    )
    return open_chosen(manifest, choice, arguments.num_images, arguments.seed)


def _open_reference(
    arguments: argparse.Namespace, manifest: Manifest, stack: ExitStack
) -> tuple[str, Label]:
    """Return the reference's description and labels: an artifact's on ONNX Runtime, or PyTorch's.

    Raises:
        ValueError: if the artifact is not FP32, or the checkpoint is missing or another one.
    """
    if arguments.reference:
        precision = Manifest.read(arguments.reference).precision
        if precision != "fp32":
            raise ValueError(
                f"--reference '{arguments.reference}' is in {precision}, expected fp32; build one "
                "with python -m export.build --fp32 --target ort"
            )
        runtime = stack.enter_context(open_runtime(arguments.reference, "ort", "cpu"))
        return f"{arguments.reference} (fp32) on ort", partial(_label_images, runtime)
    path = arguments.checkpoint
    if path is None and manifest.model.name in SHIPPED_MODELS and not manifest.model.random_weights:
        path = shipped_checkpoint(manifest.model.name)
    resized = "--resize-from" in manifest.command
    if path is None or resized:
        raise ValueError(
            f"'{arguments.artifact[0]}' "
            + ("resizes images in its graph" if resized else "has no shipped checkpoint")
            + ": give an FP32 artifact of the same weights with --reference"
            + ("" if resized else ", or the weights with --checkpoint")
        )
    from export.reference import Reference  # torch, for this side alone
    from segvit.checkpoint import load_checkpoint

    model = load_checkpoint(path)
    if model.provenance and model.provenance.sha256 != manifest.model.checkpoint_sha256:
        raise ValueError(
            f"checkpoint '{path}' is not the one that '{arguments.artifact[0]}' was built from; "
            "give that one with --checkpoint"
        )
    height, width = (int(side) for side in manifest.input.shape[1:3])
    reference = Reference(model, (height, width), manifest.mode == "slide")
    return f"{Path(path).name} in PyTorch, fp32", lambda images: reference(images).labels


def _label_images(runtime: Runtime, images: NDArray[np.uint8]) -> Labels:
    """Return labels `(B, H, W)` of uint8 images `(B, H, W, 3)`, whichever the engine's output."""
    output = infer_all(runtime, images)
    return output if output.ndim == 3 else output.argmax(axis=1)


def _open_candidate(
    folder: Path, manifest: Manifest, target: str, device: str, stack: ExitStack
) -> Candidate:
    number = int(device) if device.isdecimal() else device
    runtime = stack.enter_context(open_runtime(folder, target, number))
    tally = ParityTally(manifest.classes)
    return Candidate(folder, manifest, runtime.target, partial(_label_images, runtime), tally)


def _count_all(
    label: Label, candidates: Sequence[Candidate], images: ParityImages, progress: bool
) -> dict[tuple[int, int], int]:
    """Count every image; return how many pixels differ of each pair of builds of one command."""
    pairs = dict.fromkeys(_find_rebuilds(candidates), 0)
    for index in tqdm(
        range(images.count), desc="parity", unit="image", leave=False, disable=not progress
    ):
        image, mask = images.read(index)
        wanted = label(image[None])[0]
        truth = wanted if mask is None else mask
        counts = count_classes(wanted, truth, len(candidates[0].manifest.classes))
        distance = measure_boundary_distance(wanted)
        found = [candidate.label(image[None])[0] for candidate in candidates]
        for candidate, labels in zip(candidates, found, strict=True):
            candidate.tally.add(wanted, labels, truth, counts, distance)
        for a, b in pairs:
            pairs[a, b] += int((found[a] != found[b]).sum())
    return pairs


def _find_rebuilds(candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
    """Return the pairs that one command has made, of one target."""
    return [
        (a, b)
        for (a, first), (b, second) in combinations(enumerate(candidates), 2)
        if first.manifest.command
        and (first.manifest.command, first.target) == (second.manifest.command, second.target)
    ]


def _describe_pair(first: Candidate, second: Candidate, pixels: int) -> dict[str, Any]:
    files, others = first.manifest.files, second.manifest.files
    shared = [name for name in files if name in others]
    return {
        "artifacts": [str(first.folder), str(second.folder)],
        "target": first.target,
        "files_equal": [name for name in shared if files[name] == others[name]],
        "files_different": [name for name in shared if files[name] != others[name]],
        "pixels_different": pixels,
    }


def _summarise(candidate: Candidate, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "artifact": str(candidate.folder),
        "target": candidate.target,
        "precision": candidate.manifest.precision,
        **candidate.tally.summarise(arguments.resamples, arguments.seed),
    }


def _list_notes(manifest: Manifest, images: ParityImages) -> list[str]:
    notes = []
    if manifest.model.random_weights:
        notes.append("random weights: most labels are near-ties that any rounding turns")
    if not images.has_truth:
        notes.append("no truth for these images: IoU is against the reference's labels")
    return notes


def _bisect_all(
    arguments: argparse.Namespace, manifests: dict[Path, Manifest], images: ParityImages
) -> list[dict[str, Any]]:
    """Return the errors of every layer of each artifact against the reference's graph."""
    reference = verify_file(arguments.reference, ONNX_NAME, manifests[arguments.reference])
    lead = max(manifest.batch[0] for manifest in manifests.values())
    count = min(arguments.bisect_images, images.count)
    batches = [np.stack([images.read(index)[0]] * lead) for index in range(count)]
    found = []
    for folder, manifest in manifests.items():
        if folder == arguments.reference:
            continue
        threshold = arguments.bisect_threshold or GATES[manifest.precision].score_rms
        path = verify_file(folder, ONNX_NAME, manifest)
        layers = measure_divergence(
            reference, path, manifest.precision, batches, not arguments.json,
            Target(arguments.bisect_target),
        )  # fmt: skip
        first = find_first(layers, threshold)
        found.append({
            "artifact": str(folder),
            "target": arguments.bisect_target,
            "precision": manifest.precision,
            "threshold": threshold,
            "images": count,
            "first": first and _describe_layer(first),
            "layers": [_describe_layer(layer) for layer in layers],
        })  # fmt: skip
    return found


def _describe_layer(layer: LayerDivergence) -> dict[str, Any]:
    finite = isfinite(layer.relative_rms)  # an overflow has no JSON
    return {**asdict(layer), "relative_rms": layer.relative_rms if finite else None}


if __name__ == "__main__":
    run_main(main)
