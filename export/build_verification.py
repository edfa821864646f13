"""The proof behind an artifact: its graph against PyTorch, and every runtime against its graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.runtime import infer_all, open_runtime
from export.build_divergence import locate_divergence
from export.build_ranges import preflight_ranges
from export.build_worst_case import try_worst_case
from export.cells import list_cells
from export.check_images import CheckImages
from export.class_parity import find_lost_class
from export.manifest import Manifest, hash_file
from export.parity_text import NO_TRUTH, describe_report, record_report, suggest_fix
from export.reference import Reference
from export.score_reader import ScoreReader
from export.verify import (
    GATES,
    Labels,
    ParityError,
    Predict,
    Prediction,
    check_parity,
    compare,
)
from segvit.model import SegViT, Size

GOLDEN_NAME = "golden.npz"
GOLDEN_IMAGES = 4
Say = Callable[[str], None]


def verify_artifact(
    arguments: argparse.Namespace,
    model: SegViT,
    size: Size,
    check: CheckImages,
    manifest: Manifest,
    path: Path,
    say: Say,
) -> Manifest:
    """Compare the shipped graph with PyTorch on real images; return the manifest with the result.

    Args:
        size: (height, width) that the model works on, whatever the images' is.
        path: the ONNX file, in the artifact's folder.

    Raises:
        ParityError: if it fails its gates.
    """
    manifest = preflight_ranges(arguments, check, manifest, path, say)
    model, folder = model.to(arguments.device), path.parent
    golden = check.images[: max(GOLDEN_IMAGES, arguments.batch[2])]
    wanted: list[Labels] = []
    got: list[Labels] = []
    slides = arguments.mode == "slide"
    reference = Reference(model, size, slides)
    cells = list_cells(size, reference.crop, reference.stride) if slides else ()
    config = model.config
    open_reader = partial(ScoreReader, path, config.num_classes, size, cells)
    in_half = arguments.attention == "fp16-sums"
    source = f"{check.source}, attention summed in FP16" if in_half else check.source
    reader = open_reader(half_sums=in_half)
    report = compare(
        _keep_first(reference, len(golden), wanted),
        _keep_first(reader, len(golden), got),
        check.images,
        check.truth,
        config.num_classes,
        batch=arguments.batch[1],
        show_progress=not arguments.json,
        against_reference=arguments.max_miou_drop is not None,
        class_names=config.class_names,
        independent_shares=check.independent_shares,
    )
    random = arguments.random_weights
    for line in describe_report(report, source, random):
        say(line)
    try:
        check_parity(
            report, arguments.precision, random, arguments.max_miou_drop, suggest_fix(arguments)
        )
    except ParityError as error:
        reader.close()
        batch = golden[np.arange(arguments.batch[1]) % len(golden)]
        where = locate_divergence(arguments, model, size, batch, path)
        raise ParityError(f"{error}; {where}") from error
    labels, verified = (_join(kept, len(golden)) for kept in (wanted, got))
    manifest = _write_golden(golden, labels, manifest, folder)
    reader.close()  # ahead of another copy of the weights
    worst, warnings = try_worst_case(arguments, reference, open_reader, check, config, say)
    shares = None if check.independent_shares is None else check.independent_shares[: len(golden)]
    warnings += _check_runtime(arguments, manifest, folder, golden, verified, say, labels, shares)
    if check.truth is None and not random:
        warnings += (NO_TRUTH,)
    return replace(
        manifest,
        parity=replace(
            record_report(report, source, random, check.is_foreign and not random),
            worst_case=worst,
        ),
        warnings=manifest.warnings + warnings,
    )


def _keep_first(predict: Predict, count: int, kept: list[Labels]) -> Predict:
    """Return `predict`, made to append its labels to `kept` until they are of `count` images."""

    def predict_and_keep(images: NDArray[np.uint8]) -> Prediction:
        prediction = predict(images)
        if sum(map(len, kept)) < count:
            kept.append(prediction.labels)
        return prediction

    return predict_and_keep


def _join(kept: Sequence[Labels], count: int) -> Labels:
    """Return the labels of the first images, of batches whose last is filled up with copies."""
    return np.concatenate(kept)[:count]


def _write_golden(
    images: NDArray[np.uint8], labels: Labels, manifest: Manifest, folder: Path
) -> Manifest:
    """Write images with the reference's labels of them; return the manifest."""
    np.savez_compressed(folder / GOLDEN_NAME, images=images, labels=labels.astype(np.int32))
    files = manifest.files | {GOLDEN_NAME: hash_file(folder / GOLDEN_NAME)}
    manifest = replace(manifest, files=files)
    manifest.write(folder)
    return manifest


def _check_runtime(
    arguments: argparse.Namespace,
    manifest: Manifest,
    folder: Path,
    images: NDArray[np.uint8],
    verified: Labels,
    say: Say,
    reference: Labels | None = None,
    shares: NDArray[np.floating] | None = None,
) -> tuple[str, ...]:
    """Run the artifact through every runtime that works here and compare its labels.

    A runtime rounds elsewhere than the graph that was verified, and is right where it comes as near
    to PyTorch as its precision has to. On a few images the verified graph itself may lie below that
    gate; a runtime that gives its labels is right as well.

    Args:
        images: `(n, H, W, 3)`.
        verified: what the verified graph makes of them, `(n, H, W)`.
        reference: what PyTorch makes of them.
        shares: of each image's pixels that are independent, None for all.

    Returns warnings for the targets that could not run.

    Raises:
        ParityError: if one gives other labels, or none of a class that has enough pixels for a
            gate; what random weights give are near-ties.
    """
    warnings = []
    least = GATES[arguments.precision].pixel_agreement
    for target in dict.fromkeys(entry.target for entry in manifest.targets):
        try:
            runtime = open_runtime(folder, target)
        except ValueError as error:
            warnings.append(f"{target}: compiled and audited, not run: {error}")
            continue
        with runtime:
            got = infer_all(runtime, images)
            got = got if arguments.output == "labels" else got.argmax(axis=1)
        agreement = float((got == verified).mean())
        best, text = agreement, f"{agreement:.5f} of the labels that were verified"
        if reference is not None:
            to_reference = float((got == reference).mean())
            best, text = max(best, to_reference), f"{text}, {to_reference:.5f} of PyTorch's"
        say(f"{target}: runs, {text}, on {len(images)} images")
        if best < least and not arguments.random_weights:
            raise ParityError(
                f"target '{target}' gives {text}, the gate is {least}; leave it out of --target, "
                "and please report this machine"
            )
        if not arguments.random_weights:
            sources = [verified] if reference is None else [verified, reference]
            _check_classes(target, got, sources, manifest.classes, shares)
    return tuple(warnings)


def _check_classes(
    target: str,
    found: Labels,
    sources: Sequence[Labels],
    names: Sequence[str],
    shares: NDArray[np.floating] | None,
) -> None:
    """Raise ParityError where a runtime loses a class whole, whichever labels it is held to."""
    lost = [find_lost_class(labels, found, names, shares) for labels in sources]
    if all(lost):
        raise ParityError(
            f"target '{target}' loses class '{lost[0]}' whole: no pixel of it is left in "
            f"{len(found)} images; leave it out of --target, and please report this machine"
        )
