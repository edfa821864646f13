"""The proof behind an artifact: its graph against PyTorch, and every runtime against its graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.runtime import open_runtime
from export.cells import list_cells
from export.check_images import CheckImages
from export.manifest import Manifest, Parity, hash_file
from export.reference import Reference
from export.score_reader import ScoreReader
from export.verify import (
    GATES,
    Labels,
    ParityError,
    ParityReport,
    Predict,
    Prediction,
    check_parity,
    compare,
)
from segvit.model import SegViT, Size

GOLDEN_NAME = "golden.npz"
GOLDEN_IMAGES = 4
Say = Callable[[str], None]
Seen = tuple[NDArray[np.uint8], Labels]  # a batch and what was made of it


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
    model, folder = model.to(arguments.device), path.parent
    golden = check.images[: max(GOLDEN_IMAGES, arguments.batch[2])]
    wanted: list[Seen] = []
    got: list[Seen] = []
    slides = arguments.mode == "slide"
    reference = Reference(model, size, slides)
    cells = list_cells(size, reference.crop, reference.stride) if slides else ()
    classes = model.config.num_classes
    reader = ScoreReader(path, classes, size, cells)
    report = compare(
        _keep_first(reference, len(golden), wanted),
        _keep_first(reader, 1, got),
        check.images,
        check.truth,
        classes,
        batch=arguments.batch[1],
        show_progress=not arguments.json,
        against_reference=arguments.max_miou_drop is not None,
    )
    say(f"parity on {check.source}: {_describe_report(report, arguments.random_weights)}")
    check_parity(report, arguments.precision, arguments.random_weights, arguments.max_miou_drop)
    manifest = _write_golden(golden, [labels for _, labels in wanted], manifest, folder)
    reader.close()  # ahead of the runtimes' own copies of the weights
    warnings = _check_runtime(arguments, manifest, folder, *got[0], say)
    figures = asdict(report)
    details = {"source": check.source, "score_rms": figures.pop("score_rms")}
    if check.truth is None and report.miou is not None:
        details["miou"] = "against PyTorch's own labels, over the classes that these hold"
    if arguments.random_weights:
        figures["pixel_agreement"] = None
        details["note"] = "random weights: near-ties make labels meaningless, scores are gated"
    return replace(
        manifest,
        parity=Parity(**figures, details=details),
        warnings=manifest.warnings + warnings,
    )


def _keep_first(predict: Predict, count: int, kept: list[Seen]) -> Predict:
    """Return `predict`, made to append its batches to `kept` until they hold `count` images."""

    def predict_and_keep(images: NDArray[np.uint8]) -> Prediction:
        prediction = predict(images)
        if sum(len(labels) for _, labels in kept) < count:
            kept.append((images, prediction.labels))
        return prediction

    return predict_and_keep


def _write_golden(
    images: NDArray[np.uint8],
    batches: Sequence[Labels],
    manifest: Manifest,
    folder: Path,
) -> Manifest:
    """Write images with the reference's labels of them, given in batches; return the manifest."""
    labels = np.concatenate(batches)[: len(images)]  # a last batch is filled up with copies
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
    expected: Labels,
    say: Say,
) -> tuple[str, ...]:
    """Run the artifact through every runtime that works here and compare it with what was gated.

    Returns warnings for the targets that could not run.

    Raises:
        ParityError: if one gives other labels; what random weights give are near-ties.
    """
    warnings = []
    for target in dict.fromkeys(entry.target for entry in manifest.targets):
        try:
            runtime = open_runtime(folder, target)
        except ValueError as error:
            warnings.append(f"{target}: compiled and audited, not run: {error}")
            continue
        with runtime:
            got = runtime.infer(images)
            got = got if arguments.output == "labels" else got.argmax(axis=1)
        agreement = float((got == expected).mean())
        say(f"{target}: runs, {agreement:.5f} of labels as verified")
        least = GATES[arguments.precision].pixel_agreement
        if agreement < least and not arguments.random_weights:
            raise ParityError(
                f"target '{target}' gives {agreement:.5f} of the labels that were verified, the "
                f"gate is {least}; leave it out of --target, and please report this machine"
            )
    return tuple(warnings)


def _describe_report(report: ParityReport, random_weights: bool) -> str:
    parts = [f"scores off by {report.score_rms:.1e} RMS, {report.max_score_error:.1e} at most"]
    if random_weights:
        parts.append("labels of random weights are near-ties and not compared")
    else:
        parts.append(f"{report.pixel_agreement:.5f} of pixels equal")
    if report.miou is not None and not random_weights:
        parts.append(f"mIoU {report.miou_reference:.4f} (PyTorch) {report.miou:.4f} (exported)")
        parts.append(f"largest class drop {report.max_class_iou_drop:.4f}")
    return ", ".join(parts)
