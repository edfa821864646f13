"""`python -m export.build`: checkpoint to a checked artifact, the one place that composes all."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from calibration.scheme import SCHEMES, find_scheme
from engines.build_targets import (
    TargetBuilds,
    build_targets,
    check_bf16,
    check_fused_tail,
    default_capabilities,
)
from engines.target import Target, parse_targets
from engines.trt_builder import BuildOptions
from export.build_graph import trace_graph
from export.build_options import parse_arguments, public_arguments
from export.build_quantised import Quantisation, check_search, quantise_graph, remove_search
from export.build_verification import verify_artifact
from export.check_images import Masks, load_check_images
from export.foreign_images import UNNEEDED, find_foreign_use
from export.manifest import (
    Manifest,
    ModelInfo,
    TensorSpec,
    hash_file,
    stage_artifact,
)
from export.passes import cast_beside_quantised, deploy_passes
from export.passes.uint8_edges import Uint8EdgesPass
from export.trt_hygiene import check_hygiene
from segvit.atomic import write_bytes
from segvit.checkpoint import load_checkpoint
from segvit.config import find_variant
from segvit.memory import release_memory
from segvit.model import SegViT, Size, build_model
from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

ONNX_NAME = "model.onnx"
PRECISIONS_NAME = "build.json"
# ONNX files hold at most 2 GB; larger weights go beside them.
EXTERNAL_DATA_BYTES = 2_000_000_000
Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Build, audit and verify one artifact."""
    arguments = parse_arguments(argv)
    say: Say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    targets = _choose_targets(arguments)
    model = _load_model(arguments, say)
    config = model.config
    default_size = (config.image_size, config.image_size)
    size: Size = arguments.image_size or arguments.size or default_size
    input_size: Size = arguments.resize_from or size
    mode = "-slide" if arguments.mode == "slide" else ""
    name = f"{config.name}{mode}-{input_size[0]}x{input_size[1]}-{arguments.precision}"
    folder: Path = arguments.out or Path("artifacts") / name
    default_count = 2 if arguments.random_weights else 8 if arguments.mode == "slide" else 64
    count = arguments.num_images or default_count
    if arguments.max_miou_drop is not None:
        check_search(arguments, targets)
    quantises = arguments.precision in SCHEMES
    foreign = find_foreign_use(arguments, config.name, config.class_names, quantises)
    unneeded = (UNNEEDED,) if arguments.allow_foreign_images else ()
    allowed = (foreign,) if foreign else unneeded
    masks = Masks(arguments.masks, arguments.reduce_zero_label) if arguments.masks else None
    check = load_check_images(
        arguments.images, config, input_size, count, arguments.seed, masks=masks, model_size=size
    )
    with stage_artifact(folder) as staged:
        manifest = replace(_describe(arguments, model, input_size), warnings=allowed)
        scheme = None
        if arguments.precision in SCHEMES:
            found = find_scheme(arguments.precision, arguments.quantise_attention)
            scheme = Quantisation(found, config, input_size, targets, folder)
        manifest = _export(arguments, model, size, scheme, manifest, staged, say)
        release_memory()
        builds = _build_engines(arguments, targets, staged, say)
        release_memory()
        manifest = manifest.with_targets(builds.entries, builds.not_built, builds.files)
        manifest = _write_precisions(builds, manifest, staged)
        manifest = replace(manifest, warnings=manifest.warnings + builds.warnings)
        manifest.write(staged)
        manifest = verify_artifact(arguments, model, size, check, manifest, staged / ONNX_NAME, say)
        manifest.write(staged)
    if arguments.max_miou_drop is not None:
        remove_search(folder)
    for missing in manifest.not_built:
        say(f"not built: {missing.target}: {missing.reason}")
    for warning in manifest.warnings:
        say(f"warning: {warning}")
    say(f"wrote {folder}: {', '.join(('manifest.json', *manifest.files))}")
    say(f"digest {hash_file(folder / 'manifest.json')}")
    if foreign:  # last, so that nobody overlooks it
        say(f"FOREIGN IMAGES: {foreign}")
    if arguments.json:
        print((folder / "manifest.json").read_text(), end="")
    return 0


def _choose_targets(arguments: argparse.Namespace) -> tuple[Target, ...]:
    """Return the targets asked for, none for all; refuses those that cannot take the graph."""
    targets = parse_targets(arguments.target or ["auto"])
    if arguments.precision == "bf16":
        check_bf16(targets)
    if arguments.fused_tail:
        check_fused_tail(targets)
    return targets


def _load_model(arguments: argparse.Namespace, say: Say) -> SegViT:
    """Return the model to export: a checkpoint's, the shipped one, or one of random weights."""
    name = arguments.model
    if arguments.random_weights and arguments.checkpoint is None:
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
    random = ", RANDOM weights, as said" if arguments.random_weights else ""
    say(f"model {model.config.name} from {path} (licence: {model.provenance.licence}{random})")
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
            random_weights=arguments.random_weights,
            checkpoint_sha256=provenance.sha256 if provenance else None,
            crop=config.image_size,
            stride=config.stride or config.image_size,
            short_side=config.short_side or config.image_size,
            mean=config.mean,
            std=config.std,
        ),
        precision=arguments.precision,
        attention=arguments.attention,
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
    graph = trace_graph(arguments, model, size)
    fired = []
    # ONNX Runtime calibrates, and computes no BF16.
    first = "fp32" if arguments.float_type == "bf16" else arguments.float_type
    for graph_pass in deploy_passes(first if wanted else arguments.precision, arguments.attention):
        if graph_pass(graph).modified:
            fired.append(type(graph_pass).__name__)
    release_memory()
    seconds = time.perf_counter() - started
    if wanted is not None:
        manifest = quantise_graph(arguments, graph, wanted, manifest, folder, say)
        fired.append("QdqInsertionPass")
        if arguments.float_type == "bf16":
            cast = cast_beside_quantised(graph.graph)
            cast(graph)
            fired.append(type(cast).__name__)
            Uint8EdgesPass()(graph)
    graph.metadata_props.update(manifest.metadata())
    graph.metadata_props["config"] = model.config.to_json()
    path = folder / ONNX_NAME
    weight_bytes = sum(value.const_value.nbytes for value in graph.graph.initializers.values()
                       if value.const_value is not None)  # fmt: skip
    is_large = weight_bytes > EXTERNAL_DATA_BYTES
    ir.save(graph, path, external_data=f"{ONNX_NAME}.data" if is_large else None)
    onnx.checker.check_model(path, full_check=True)
    check_hygiene(path)
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
        fused_tail=arguments.fused_tail,
        allow_known_wrong=arguments.allow_known_wrong,
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
        allow_unaudited=arguments.allow_unaudited,
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


if __name__ == "__main__":
    run_main(main)
