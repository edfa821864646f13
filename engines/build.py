"""Engines from an existing ONNX file: for a machine that has the GPU but not the checkpoint.

An artifact gains engines, or has them replaced, in engines.json: its manifest.json, and so its
digest, stay the same. A failure leaves it as it was.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from engines.build_targets import TargetBuilds, build_targets, default_capabilities
from engines.graph import load_without_weights
from engines.rebuild import ONNX_NAME, add_engines
from engines.target import AUTO, Target, parse_targets
from engines.trt_builder import BuildOptions
from export.engine_list import ENGINES_NAME
from export.manifest import (
    MANIFEST_NAME,
    Manifest,
    TensorSpec,
    hash_file,
    stage_artifact,
)
from export.manifest_file import digest_argument
from segvit.atomic import make_folder
from segvit.cli import parse_batch

_EXAMPLE = """example:
  python -m engines.build --artifact artifacts/vit_t_landcover-256x256-fp16 \\
      --target trt-rtx --compute-capability SM86 SM89
"""
Batch = tuple[int, int, int]

_DYNAMIC_BATCH: Batch = (1, 4, 8)
_UNCHECKED = "built by engines.build from an ONNX file: parity with the checkpoint not measured"


def main(argv: Sequence[str] | None = None) -> int:
    """Build, audit and add engines; return the exit code."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    if arguments.artifact is not None and arguments.out is not None:
        parser.error("--out goes with --onnx; --artifact is extended in place")
    if arguments.onnx is not None and arguments.out is None:
        parser.error("--onnx needs --out, the folder of the new artifact")
    if arguments.digest is not None and arguments.artifact is None:
        parser.error("--digest goes with --artifact")
    if arguments.artifact is not None:
        written = arguments.artifact / ENGINES_NAME
        manifest, builds = _extend_artifact(arguments.artifact, arguments)
    else:
        written = arguments.out / MANIFEST_NAME
        manifest, builds = _make_artifact(arguments.onnx, arguments.out, arguments)
    for missing in builds.not_built:
        _report(arguments, f"not built: {missing.target}: {missing.reason}")
    for warning in builds.warnings:
        _report(arguments, f"warning: {warning}")
    _report(arguments, f"wrote {written}")
    _report(arguments, f"digest {hash_file(written.parent / MANIFEST_NAME)}")
    if arguments.json:
        print(manifest.to_json(), end="")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engines.build",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--artifact", type=Path, metavar="DIR", help="the artifact to extend")
    source.add_argument("--onnx", type=Path, metavar="FILE", help="a model that we exported")
    parser.add_argument("--out", type=Path, metavar="DIR", help="with --onnx: the new artifact")
    parser.add_argument(
        "--digest",
        type=digest_argument,
        metavar="SHA256",
        help="refuse any artifact but that of this digest, which builds print",
    )
    parser.add_argument(
        "--batch",
        type=parse_batch,
        metavar="MIN:OPT:MAX",
        help="of a model with a dynamic batch (default: the artifact's, or 1:4:8)",
    )
    _add_builder_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest, nothing else")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser


def _add_builder_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", nargs="+", action="extend", metavar="NAME", choices=[*Target, AUTO],
        help="trt, trt-rtx, ort, openvino or auto (default: all that can be)")  # fmt: skip
    add("--compute-capability", nargs="+", action="extend", metavar="SM",
        help="TensorRT-RTX: GPUs to compile for (default SM86 SM89 SM120)")  # fmt: skip
    add("--allow-unfused", action="store_true", help="accept unfused attentions")
    add("--allow-unaudited", action="store_true",
        help="accept kernels that the audit cannot trace, see docs/audit.md")  # fmt: skip
    add("--allow-known-wrong", action="store_true",
        help="build what is reported to give wrong labels (engines/known_wrong.py)")  # fmt: skip
    add("--workspace", type=int, metavar="MIB", help="builder workspace")
    add("--optimization-level", type=int, choices=range(6), metavar="0-5")
    add("--timing-cache", type=Path, metavar="FILE", help="TensorRT only")
    add("--fused-tail", action="store_true",
        help="TensorRT only, EXPERIMENTAL: the tail as one Triton kernel; no engine with it was "
        "ever built or run, see docs/fused-tail.md")  # fmt: skip


def _build_options(arguments: argparse.Namespace, batch: Batch, precision: str) -> BuildOptions:
    options = BuildOptions(
        batch=batch,
        workspace_mib=arguments.workspace,
        optimization_level=arguments.optimization_level,
        timing_cache=arguments.timing_cache,
        fused_tail=arguments.fused_tail,
        allow_known_wrong=arguments.allow_known_wrong,
    )
    capabilities = arguments.compute_capability or default_capabilities(precision)
    return replace(options, compute_capabilities=tuple(capabilities))


def _extend_artifact(folder: Path, arguments: argparse.Namespace) -> tuple[Manifest, TargetBuilds]:
    """Build beside the artifact's files, then move everything in, the list of engines last."""
    manifest = Manifest.read(folder, arguments.digest)
    if arguments.batch is not None:
        manifest = replace(manifest, batch=_agree_batch(manifest, arguments.batch))
    return add_engines(
        folder,
        manifest,
        _announce(manifest, arguments),
        _build_options(arguments, manifest.batch, manifest.precision),
        arguments.allow_unfused,
        not arguments.json,
        partial(_report, arguments),
        arguments.allow_unaudited,
    )


def _make_artifact(
    source: Path, folder: Path, arguments: argparse.Namespace
) -> tuple[Manifest, TargetBuilds]:
    """Make an artifact of a copy of an ONNX file."""
    manifest = _describe_onnx(source, arguments.batch)
    make_folder(folder.parent)
    with stage_artifact(folder) as staged:
        onnx_path = staged / ONNX_NAME
        names = _copy_onnx(source, staged)
        manifest = replace(manifest, files={name: hash_file(staged / name) for name in names})
        builds = build_targets(
            onnx_path,
            _announce(manifest, arguments),
            _build_options(arguments, manifest.batch, manifest.precision),
            manifest.precision,
            staged,
            allow_unfused=arguments.allow_unfused,
            allow_unaudited=arguments.allow_unaudited,
            progress=not arguments.json,
            report=partial(_report, arguments),
        )
        manifest = manifest.with_targets(builds.entries, builds.not_built, builds.files)
        manifest = replace(manifest, warnings=(_UNCHECKED, *builds.warnings))
        manifest.write(staged)
    return manifest, builds


def _announce(manifest: Manifest, arguments: argparse.Namespace) -> tuple[Target, ...]:
    """Say what is built, and return the targets; none for all that can be."""
    names = arguments.target or [AUTO]
    targets = parse_targets(names)
    line = f"building {manifest.model.name} in {manifest.precision} for {', '.join(names)}"
    _report(arguments, line)
    return targets


def _report(arguments: argparse.Namespace, line: str) -> None:
    print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def _describe_onnx(path: Path, batch: Batch | None) -> Manifest:
    """Return the manifest that an exported ONNX file's own metadata and tensors give."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such ONNX file", str(path))
    model = load_without_weights(path)
    initial = {tensor.name for tensor in model.graph.initializer}
    source = next(value for value in model.graph.input if value.name not in initial)
    outputs = tuple(map(_tensor_spec, model.graph.output))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    manifest = Manifest.from_metadata(metadata, _tensor_spec(source), outputs)
    return replace(manifest, batch=_agree_batch(manifest, batch))


def _agree_batch(manifest: Manifest, batch: Batch | None) -> Batch:
    """Return the batch of a static graph, or the one asked for of a dynamic graph."""
    size = manifest.input.shape[0]
    if isinstance(size, str):
        return batch or _DYNAMIC_BATCH
    if batch is not None and set(batch) != {size}:
        raise ValueError(
            f"--batch: expected {size}, the ONNX file's static batch, got "
            f"{':'.join(map(str, batch))}; export it again with "
            "python -m export.build --batch MIN:OPT:MAX"
        )
    return size, size, size


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = tuple(size.dim_param or int(size.dim_value) for size in kind.shape.dim)
    return TensorSpec(value.name, str(dtype), shape)


def _copy_onnx(source: Path, folder: Path) -> list[str]:
    """Copy an ONNX file and the files beside it that hold its weights; return their new names.

    Weights are named after the graph: files of such names are verified whenever it is read.
    """
    model = onnx.load(source, load_external_data=False)
    places = [
        entry
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    names = sorted({entry.value for entry in places})
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"'{source}': weights in '{name}', expected a file beside the model")
    beside = f"{ONNX_NAME}."
    prefix = "" if all(name.startswith(beside) for name in names) else beside
    if prefix:
        for entry in places:
            entry.value = prefix + entry.value
        onnx.save(model, folder / ONNX_NAME)
    else:
        shutil.copyfile(source, folder / ONNX_NAME)
    for name in names:
        shutil.copyfile(source.parent / name, folder / f"{prefix}{name}")
    return [ONNX_NAME, *(prefix + name for name in names)]


if __name__ == "__main__":
    run_main(main)
