"""A Triton model repository from an artifact: the file, its configuration, its class names.

An existing repository keeps its other models, and a model its other versions.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.manifest import BuiltTarget, Manifest, verify_file
from export.manifest_file import digest_argument
from export.triton_config import (
    DEFAULT_QUEUE_DELAY_US,
    VERSION_POLICIES,
    Serving,
    format_contract,
    format_settings,
)
from segvit.atomic import replace_folder, write_bytes

_EXAMPLE = """example:
  python -m export.triton --artifact artifacts/mine --target ort --out models
"""
_CONFIG, _LABELS = "config.pbtxt", "labels.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CAPABILITY = re.compile(r"SM(\d{1,2})(\d)")
_KINDS = {"auto": "KIND_AUTO", "gpu": "KIND_GPU", "cpu": "KIND_CPU"}
_BACKENDS = {"trt": "tensorrt", "ort": "onnxruntime"}
_NOT_SERVED = {
    "trt-rtx": "Triton has no back end for TensorRT-RTX, and the accelerators that its "
    "onnxruntime back end knows are tensorrt and cuda, not ONNX Runtime's NvTensorRTRTX",
    "openvino": "its engines are made when the ONNX file is opened, which Triton's onnxruntime "
    "back end does as well",
}


@dataclass(frozen=True)
class Written:
    """What is in the repository now."""

    model: str
    version: int
    path: str
    backend: str
    max_batch_size: int
    files: tuple[str, ...]
    notes: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the repository; return the exit code."""
    arguments = _parse_arguments(argv)
    written = write_repository(arguments)
    if arguments.json:
        print(json.dumps(written.__dict__, indent=2))
        return 0
    batches = f"batches up to {written.max_batch_size}" if written.max_batch_size else "no batching"
    print(f"{written.model}, version {written.version}: {written.backend}, {batches}")
    for note in written.notes:
        print(f"note: {note}")
    print(f"wrote {written.path}: {', '.join(written.files)}")
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.triton",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR")
    add("--digest", type=digest_argument, metavar="SHA256",
        help="refuse any artifact but that of this digest, which builds print")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="the repository, new or existing")
    add("--name", help="of the model in the repository (default: the artifact's)")
    add("--version", type=_positive, default=1, metavar="N", help="of the model (default 1)")
    add("--replace", action="store_true", help="replace this version where it exists")
    add("--target", default="auto", choices=["auto", *_BACKENDS, *_NOT_SERVED],
        help="what the server runs (default auto: trt where built, else ort)")  # fmt: skip
    add("--device", choices=tuple(_KINDS), help="where it runs (default: gpu for trt, else auto)")
    add("--instances", type=_positive, default=1, metavar="N",
        help="on each GPU, or on the CPU (default 1)")  # fmt: skip
    add("--max-queue-delay-us", type=int, metavar="N",
        help="how long a request may wait for others to make a batch "
        f"(default {DEFAULT_QUEUE_DELAY_US})")  # fmt: skip
    add("--version-policy", default=VERSION_POLICIES[0], choices=VERSION_POLICIES,
        help="serve the highest version alone, or all (default latest)")  # fmt: skip
    add("--json", action="store_true", help="print what was written, nothing else")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.max_queue_delay_us is not None and arguments.max_queue_delay_us < 0:
        parser.error(
            f"--max-queue-delay-us: expected 0 or more, got {arguments.max_queue_delay_us}"
        )
    return arguments


def write_repository(arguments: argparse.Namespace) -> Written:
    """Write an artifact into a repository; all of a version appears at once.

    Raises:
        ManifestError: if a file is not the one that the manifest lists.
        ValueError: if Triton cannot serve the artifact as asked, or the version is there already.
    """
    folder: Path = arguments.artifact
    manifest = Manifest.read(folder, arguments.digest)
    name = arguments.name or manifest.model.name
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"model name '{name}': expected letters, digits, '.', '_' and '-'; give --name"
        )
    entries = _choose_entries(folder, manifest, arguments.target)
    serving = _plan_serving(manifest, entries, arguments)
    files = _choose_files(folder, manifest, entries)
    _write_model(arguments.out / name, manifest, serving, files, arguments)
    return Written(
        model=name,
        version=arguments.version,
        path=str(arguments.out / name),
        backend=serving.backend,
        max_batch_size=manifest.batch[2] if serving.batched else 0,
        files=(_CONFIG, _LABELS, *(f"{arguments.version}/{file}" for file in files)),
        notes=_describe_limits(manifest, serving, entries, arguments),
    )


def _choose_entries(folder: Path, manifest: Manifest, target: str) -> list[BuiltTarget]:
    """Return the ONNX file, or the engines, one a GPU, that the server is to run."""
    built = [entry.target for entry in manifest.targets]
    if target in _NOT_SERVED:
        raise ValueError(
            f"target '{target}' cannot be served: {_NOT_SERVED[target]}; give --target ort, or "
            f"build on the server's GPU: python -m engines.build --artifact {folder} --target trt"
        )
    wanted = [name for name in _BACKENDS if name in built] if target == "auto" else [target]
    entries = [entry for entry in manifest.targets if entry.target in wanted[:1]]
    if not entries:
        asked = "nothing that Triton serves" if target == "auto" else f"no {target} engine"
        raise ValueError(
            f"'{folder}' holds {asked}, only {', '.join(dict.fromkeys(built)) or 'no targets'}; "
            f"add it: python -m engines.build --artifact {folder} --target "
            f"{'ort' if target == 'auto' else target}"
        )
    if entries[0].target == "ort":
        return entries[:1]
    versions = sorted({entry.version for entry in entries})
    if len(versions) > 1:
        raise ValueError(
            f"'{folder}' holds engines of TensorRT {' and '.join(versions)}, and a server has one "
            f"TensorRT; build them again with one: python -m engines.build --artifact {folder} "
            "--target trt"
        )
    return entries


def _plan_serving(
    manifest: Manifest, entries: Sequence[BuiltTarget], arguments: argparse.Namespace
) -> Serving:
    target = entries[0].target
    is_engine = target == "trt"
    if is_engine and arguments.device not in (None, "gpu"):
        raise ValueError(
            f"--device {arguments.device}: TensorRT engines run on a GPU; leave it out"
        )
    # An engine's profile has a smallest batch, and the server may send any number from 1.
    is_range = isinstance(manifest.input.shape[0], str)
    batched = is_range and (manifest.batch[0] == 1 or not is_engine)
    if arguments.max_queue_delay_us is not None and not batched:
        raise ValueError(f"--max-queue-delay-us: {_why_unbatched(manifest)}")
    engines = _name_engines(entries) if len(entries) > 1 else {}
    delay = arguments.max_queue_delay_us
    return Serving(
        backend=_BACKENDS[target],
        kind=_KINDS[arguments.device or ("gpu" if is_engine else "auto")],
        instances=arguments.instances,
        batched=batched,
        max_queue_delay_us=DEFAULT_QUEUE_DELAY_US if delay is None else delay,
        version_policy=arguments.version_policy,
        cc_files={capability: name for capability, (name, _) in engines.items()},
        parameters={"tensorrt_version": entries[0].version} if is_engine else {},
    )


def _name_engines(entries: Sequence[BuiltTarget]) -> dict[str, tuple[str, BuiltTarget]]:
    """Return a file name and the engine for each compute capability, as Triton spells it: `8.9`."""
    engines = {}
    for entry in entries:
        for capability in entry.compute_capabilities:
            found = _CAPABILITY.fullmatch(capability)
            if found is None:
                raise ValueError(f"compute capability '{capability}': expected the form SM89")
            engines[f"{found[1]}.{found[2]}"] = (f"model_{capability.lower()}.plan", entry)
    return engines


def _choose_files(
    folder: Path, manifest: Manifest, entries: Sequence[BuiltTarget]
) -> dict[str, Path]:
    """Return the files of the version's folder by their names there, each as built."""
    first = entries[0]
    if len(entries) > 1:
        pairs = {name: entry.file for name, entry in _name_engines(entries).values()}
    elif first.target == "trt":
        pairs = {"model.plan": first.file}
    else:
        # The graph names its external data, above 2 GB of weights, so that keeps its name.
        data = [name for name in manifest.files if name.startswith(f"{first.file}.")]
        pairs = {"model.onnx": first.file, **{Path(name).name: name for name in data}}
    return {name: verify_file(folder, file, manifest) for name, file in pairs.items()}


def _write_model(
    model: Path,
    manifest: Manifest,
    serving: Serving,
    files: Mapping[str, Path],
    arguments: argparse.Namespace,
) -> None:
    contract = format_contract(model.name, manifest, serving)
    config = (contract + format_settings(manifest, serving)).encode()
    labels = "".join(f"{' '.join(name.split())}\n" for name in manifest.classes).encode()
    version = str(arguments.version)
    others = _check_existing(model, version, contract, arguments.replace)
    with replace_folder(model / version if others else model) as staged:
        target = staged if others else staged / version
        target.mkdir(exist_ok=True)
        for name, source in files.items():
            shutil.copyfile(source, target / name)
        if not others:
            write_bytes(staged / _LABELS, labels)
            write_bytes(staged / _CONFIG, config)
    if others:
        write_bytes(model / _CONFIG, config)


def _check_existing(model: Path, version: str, contract: str, replace: bool) -> bool:
    """Return whether other versions of the model are there, after comparing them with this one."""
    if not model.exists():
        return False
    if not (model / _CONFIG).is_file():
        raise ValueError(
            f"'{model}' is there but has no {_CONFIG}, so it will not be replaced; give another "
            "--name or --out"
        )
    versions = _find_versions(model)
    if version in versions and not replace:
        raise ValueError(
            f"'{model}' has a version {version} already; give another --version or --name, or "
            "--replace"
        )
    if versions <= {version}:
        return False
    if not (model / _CONFIG).read_text().startswith(contract):
        raise ValueError(
            f"'{model}': its other versions differ in back end, batch, shape or classes, and all "
            f"versions of a model share one {_CONFIG}; give another --name"
        )
    return True


def _find_versions(model: Path) -> set[str]:
    return {path.name for path in model.iterdir() if path.is_dir() and path.name.isdecimal()}


def _describe_limits(
    manifest: Manifest,
    serving: Serving,
    entries: Sequence[BuiltTarget],
    arguments: argparse.Namespace,
) -> tuple[str, ...]:
    notes = []
    model = arguments.out / (arguments.name or manifest.model.name)
    newest = max(map(int, _find_versions(model)))
    if newest > arguments.version and serving.version_policy == VERSION_POLICIES[0]:
        notes.append(
            f"version {newest} is there and is the one that is served; give --version-policy all "
            "to serve this one as well"
        )
    if not serving.batched:
        notes.append(_why_unbatched(manifest))
    if entries[0].target == "trt":
        capabilities = ", ".join(name for entry in entries for name in entry.compute_capabilities)
        notes.append(
            f"the server needs TensorRT {entries[0].version} and a GPU of {capabilities}, as "
            "the engine was built for"
        )
    return tuple(notes)


def _why_unbatched(manifest: Manifest) -> str:
    smallest, _, largest = manifest.batch
    batch = f"fixed at {largest}" if smallest == largest else f"{smallest} or more"
    return (
        f"the engine's batch is {batch}, so the server cannot put requests together; build the "
        "artifact with --batch 1:4:8 to let it"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got '{text}'")
    return int(text)


if __name__ == "__main__":
    run_main(main)
