"""`python -m export.build`: checkpoint to a checked artifact, the one place that composes all."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from calibration.scheme import SCHEMES, find_scheme
from engines.build_targets import TargetBuilds, build_targets, default_capabilities
from engines.runtime import open_runtime
from engines.target import Target, parse_targets
from engines.trt_builder import BuildOptions
from export.build_options import parse_arguments, public_arguments
from export.build_quantised import Quantisation, check_search, quantise_graph, remove_search
from export.cells import list_cells
from export.check_images import CheckImages, load_check_images
from export.deploy import DeployModel
from export.manifest import (
    Manifest,
    ModelInfo,
    Parity,
    TensorSpec,
    hash_file,
    stage_artifact,
)
from export.passes import deploy_passes
from export.reference import Reference
from export.score_reader import ScoreReader
from export.slide_model import SlideModel
from export.trace import trace_model
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
from segvit.atomic import write_bytes
from segvit.checkpoint import load_checkpoint
from segvit.cli import run_main
from segvit.config import find_variant
from segvit.memory import release_memory
from segvit.model import SegViT, Size, build_model
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

ONNX_NAME = "model.onnx"
GOLDEN_NAME = "golden.npz"
GOLDEN_IMAGES = 4
PRECISIONS_NAME = "build.json"
# ONNX files hold at most 2 GB; larger weights go beside them.
EXTERNAL_DATA_BYTES = 2_000_000_000
Say = Callable[[str], None]
Seen = tuple[NDArray[np.uint8], Labels]  # a batch and what was made of it


def main(argv: Sequence[str] | None = None) -> int:
    """Build, audit and verify one artifact."""
    arguments = parse_arguments(argv)
    say: Say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    targets = parse_targets(arguments.target or ["auto"])
    model = _load_model(arguments, say)
    config = model.config
    default_size = (config.image_size, config.image_size)
    size: Size = arguments.image_size or arguments.size or default_size
    mode = "-slide" if arguments.mode == "slide" else ""
    name = f"{config.name}{mode}-{size[0]}x{size[1]}-{arguments.precision}"
    folder: Path = arguments.out or Path("artifacts") / name
    default_count = 2 if arguments.random_weights else 8 if arguments.mode == "slide" else 64
    count = arguments.num_images or default_count
    check = load_check_images(arguments.images, config, size, count, arguments.seed)
    if arguments.max_miou_drop is not None:
        check_search(arguments, targets)
    with stage_artifact(folder) as staged:
        manifest = _describe(arguments, model, size)
        scheme = None
        if arguments.precision in SCHEMES:
            found = find_scheme(arguments.precision, arguments.quantise_attention)
            scheme = Quantisation(found, config, size, targets, folder)
        manifest = _export(arguments, model, size, scheme, manifest, staged, say)
        release_memory()
        builds = _build_engines(arguments, targets, staged, say)
        release_memory()
        manifest = manifest.with_targets(builds.entries, builds.not_built, builds.files)
        manifest = _write_precisions(builds, manifest, staged)
        manifest = replace(manifest, warnings=manifest.warnings + builds.warnings)
        manifest.write(staged)
        manifest = _verify(arguments, model, check, manifest, staged, say)
        manifest.write(staged)
    if arguments.max_miou_drop is not None:
        remove_search(folder)
    for missing in manifest.not_built:
        say(f"not built: {missing.target}: {missing.reason}")
    for warning in manifest.warnings:
        say(f"warning: {warning}")
    say(f"wrote {folder}: {', '.join(('manifest.json', *manifest.files))}")
    if arguments.json:
        print((folder / "manifest.json").read_text(), end="")
    return 0


def _load_model(arguments: argparse.Namespace, say: Say) -> SegViT:
    """Return the model to export: a checkpoint's, the shipped one, or one of random weights."""
    name = arguments.model
    if arguments.random_weights:
        torch.manual_seed(arguments.seed)
        model = build_model(find_variant(name or SHIPPED_MODELS[0]))
        say(f"model {model.config.name}: RANDOM weights, as asked (seed {arguments.seed})")
        return model
    path = arguments.checkpoint
    if path is None:
        name = name or SHIPPED_MODELS[0]
        path = shipped_checkpoint(name)
        say(f"no --checkpoint given: taking the shipped land-cover model {name}")
    model = load_checkpoint(path, find_variant(name) if name else None)
    assert model.provenance is not None
    if model.provenance.random_parts:
        raise ValueError(
            f"checkpoint '{path}' leaves {', '.join(model.provenance.random_parts)} random; "
            "train it first with python -m segvit.train --checkpoint"
        )
    say(f"model {model.config.name} from {path} (licence: {model.provenance.licence})")
    return model


def _describe(arguments: argparse.Namespace, model: SegViT, size: Size) -> Manifest:
    """Return the manifest before anything is built."""
    config, provenance = model.config, model.provenance
    smallest, _, largest = arguments.batch
    batch: int | str = "batch" if smallest != largest else largest
    label_type = "uint8" if config.num_classes <= 256 else "int32"
    output = (
        TensorSpec("labels", label_type, (batch, *size))
        if arguments.output == "labels"
        else TensorSpec("scores", "float32", (batch, config.num_classes, *size))
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    packages = ("segvit-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    return Manifest(
        version=version("segvit-deploy"),
        model=ModelInfo(
            name=config.name,
            parameters=parameters,
            licence=provenance.licence if provenance else "none (random weights)",
            random_weights=provenance is None,
            checkpoint_sha256=provenance.sha256 if provenance else None,
            crop=config.image_size,
            stride=config.stride or config.image_size,
            short_side=config.short_side or config.image_size,
            mean=config.mean,
            std=config.std,
        ),
        precision=arguments.precision,
        input=TensorSpec("image", "uint8", (batch, *size, 3)),
        outputs=(output,),
        classes=config.class_names,
        palette=config.palette,
        batch=arguments.batch,
        mode=arguments.mode,
        command=shlex.join(["python", "-m", "export.build", *public_arguments(arguments)]),
        versions={package: version(package) for package in packages},
    )


def _export(
    arguments: argparse.Namespace,
    model: SegViT,
    size: Size,
    wanted: Quantisation | None,
    manifest: Manifest,
    folder: Path,
    say: Say,
) -> Manifest:
    """Fold, trace, rewrite and save the graph; return the manifest with its files."""
    started = time.perf_counter()
    deploy = (
        SlideModel(model, size, arguments.window_batch)
        if arguments.mode == "slide"
        else DeployModel(model, size, arguments.output, arguments.tail_strips)
    )
    batch = arguments.batch[2] if isinstance(manifest.input.shape[0], int) else None
    graph = trace_model(deploy, size, batch)
    del deploy  # its weights, 1.4 GB in ViT-L, go once the passes have replaced them
    fired = []
    float_type = arguments.float_type or "fp16"
    for graph_pass in deploy_passes(float_type if wanted else arguments.precision):
        if graph_pass(graph).modified:
            fired.append(type(graph_pass).__name__)
    release_memory()
    seconds = time.perf_counter() - started
    if wanted is not None:
        manifest = quantise_graph(arguments, graph, wanted, manifest, folder, say)
        fired.append("QdqInsertionPass")
    graph.metadata_props.update(manifest.metadata())
    graph.metadata_props["config"] = model.config.to_json()
    path = folder / ONNX_NAME
    weight_bytes = sum(value.const_value.nbytes for value in graph.graph.initializers.values()
                       if value.const_value is not None)  # fmt: skip
    is_large = weight_bytes > EXTERNAL_DATA_BYTES
    ir.save(graph, path, external_data=f"{ONNX_NAME}.data" if is_large else None)
    onnx.checker.check_model(path, full_check=True)
    nodes = sum(1 for _ in graph.graph)
    say(
        f"export: {nodes} nodes, {weight_bytes / 1e6:.1f} MB of {arguments.precision} weights, "
        f"passes {', '.join(fired)}, traced in {seconds:.1f} s"
    )
    names = [file.name for file in folder.iterdir()]
    return replace(manifest, files={name: hash_file(folder / name) for name in sorted(names)})


def _build_engines(
    arguments: argparse.Namespace, targets: Sequence[Target], folder: Path, say: Say
) -> TargetBuilds:
    options = BuildOptions(
        batch=arguments.batch,
        workspace_mib=arguments.workspace,
        optimization_level=arguments.optimization_level,
        timing_cache=arguments.timing_cache,
    )
    capabilities = arguments.compute_capability or default_capabilities(arguments.precision)
    options = replace(options, compute_capabilities=tuple(capabilities))
    return build_targets(
        folder / ONNX_NAME,
        targets,
        options,
        arguments.precision,
        folder,
        allow_unfused=arguments.allow_unfused,
        progress=not arguments.json,
        report=say,
    )


def _write_precisions(builds: TargetBuilds, manifest: Manifest, folder: Path) -> Manifest:
    """Write what precision each product was asked in and runs in, by engine."""
    if not builds.audits:
        return manifest
    document = {
        file: {name: {"asked": asked, "obtained": got} for name, (asked, got) in a.products.items()}
        for file, a in builds.audits.items()
    }
    write_bytes(folder / PRECISIONS_NAME, json.dumps(document, indent=1).encode())
    hashed = {PRECISIONS_NAME: hash_file(folder / PRECISIONS_NAME)}
    return replace(manifest, files=manifest.files | hashed)


def _verify(
    arguments: argparse.Namespace,
    model: SegViT,
    check: CheckImages,
    manifest: Manifest,
    folder: Path,
    say: Say,
) -> Manifest:
    """Compare the shipped graph with PyTorch on real images; return the manifest with the result.

    Raises:
        ParityError: if it fails its gates.
    """
    model = model.to(arguments.device)
    golden = check.images[: max(GOLDEN_IMAGES, arguments.batch[2])]
    wanted: list[Seen] = []
    got: list[Seen] = []
    slides = arguments.mode == "slide"
    reference = Reference(model, slides)
    cells = list_cells(arguments.image_size, reference.crop, reference.stride) if slides else ()
    classes = model.config.num_classes
    reader = ScoreReader(folder / ONNX_NAME, arguments.precision, classes, cells)
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


if __name__ == "__main__":
    run_main(main)
