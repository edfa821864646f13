"""Build, audit and store engines for several targets; what every build command shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import TensorProto

from engines.audit import Audit, AuditError, audit_kernels, check_audit
from engines.audit_budget import check_budget, describe_build, read_budgets
from engines.devices import parse_device
from engines.fused_tail import import_triton
from engines.fused_tail_plugin import find_tail
from engines.graph import load_without_weights, read_graph
from engines.kernels import layers_document
from engines.known_wrong import (
    Combination,
    check_known_wrong,
    read_attentions,
)
from engines.target import (
    COMPILERS,
    PREFERENCE,
    Target,
    installed_version,
    missing_reason,
    own_compute_capability,
)
from engines.trt_builder import BuildOptions, BuiltEngine, build_engine
from export.manifest import BuiltTarget, MissingTarget, hash_file
from export.trt_hygiene import check_hygiene
from segvit.atomic import write_bytes

# Below this, TensorRT-RTX splits LayerNorm and copies attention's output, and it gives a plan of
# several capabilities the kernels of the oldest: 24 instead of 21 for three ViT-B blocks.
_OLDEST_AMPERE = 80
_OLDEST_FP8 = 89
_EXCEEDS = "exceeds its budget"
_NO_BF16 = (
    "ONNX Runtime's CPU provider computes no BF16; build with --fp16 for it, or give --target "
    "openvino or trt-rtx"
)
_EXPERIMENTAL = (
    "experimental: one Triton kernel in place of the tail (--fused-tail), as in no engine that was "
    "built or run before this version's release; compare its labels with --self-test"
)


@dataclass(frozen=True)
class TargetBuilds:
    """What `build_targets` made: manifest entries, hashes of the new files, audits by file."""

    entries: tuple[BuiltTarget, ...]
    not_built: tuple[MissingTarget, ...]
    files: dict[str, str]
    audits: dict[str, Audit]
    warnings: tuple[str, ...]


def build_targets(
    onnx_path: str | Path,
    targets: Sequence[Target],
    options: BuildOptions,
    precision: str,
    folder: str | Path,
    allow_unfused: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
    taken: Mapping[str, str] | None = None,
    kept: Collection[str] = (),
    allow_unaudited: bool = False,
) -> TargetBuilds:
    """Return what was built of an ONNX file; engines and layer lists are written to `folder`.

    TensorRT-RTX gets one engine for all its compute capabilities from Ampere on: it costs 0.7 KB
    more than one for a single capability and holds the same kernels. Turing gets its own.

    Args:
        onnx_path: the model; the entries of `ort` and `openvino` name this file, which belongs in
            the artifact.
        targets: those asked for by name; none means all that this machine can build.
        options: for the builders.
        precision: what the engines are audited against.
        folder: where files go; give a temporary one and move them when all went well.
        allow_unfused: accept attentions that did not fuse, with a warning.
        progress: show bars, on a terminal.
        report: is told one line for each engine built.
        taken: layer lists that are there already, each with the engine it belongs to.
        kept: names of files that no new one may have.
        allow_unaudited: accept what the audit cannot vouch for, with a warning.

    Raises:
        ValueError: if a target asked for by name, or any at all, cannot be built here, if an
            option does not fit the model or the targets, or if TensorRT's documents do not allow
            a node of the graph.
        KnownWrongError: if a target is known to give wrong labels.
        ImportError: if what an option needs is not installed.
        EngineBuildError: if a builder refuses.
        AuditError: if an engine is not what was asked for.
    """
    onnx_path, folder = Path(onnx_path), Path(folder)
    check_capabilities(precision, options.compute_capabilities)
    if options.fused_tail:
        check_fused_tail(targets)
        find_tail(onnx_path)
    missing = {target: missing_reason(target) for target in targets or PREFERENCE}
    if missing.get(Target.ORT, "") is None and _holds_bf16(onnx_path):
        missing[Target.ORT] = _NO_BF16
    not_built = [MissingTarget(target, reason) for target, reason in missing.items() if reason]
    if targets and not_built:
        first = not_built[0]
        raise ValueError(f"target '{first.target}' cannot be built here: {first.reason}")
    usable = [target for target, reason in missing.items() if reason is None]
    doubts = _check_compilers(onnx_path, usable, options, precision)
    entries: list[BuiltTarget] = []
    audits: dict[str, Audit] = {}
    warnings: list[str] = []
    for target in usable:
        if target not in COMPILERS:
            try:
                entries.append(_check_loads(onnx_path, target))
            except ValueError as error:
                # A limit of that runtime (ONNX Runtime has no BF16 convolution), not of the file.
                if targets:
                    raise
                not_built.append(MissingTarget(target, str(error)))
            continue
        graph = read_graph(onnx_path)
        for group in _group_capabilities(target, options):
            engine = build_engine(onnx_path, target, group, options, progress)
            audit = audit_kernels(engine.kernels, graph, engine.activation_bytes, engine.plan)
            fused_tail = options.fused_tail and target is Target.TRT
            check_audit(audit, precision, allow_unfused, fused_tail, allow_unaudited)
            name = describe_build(graph, target, engine.version, group)
            accepted = allow_unaudited or bool(allow_unfused and audit.unfused)
            audit = replace(audit, budget=_compare(audit, name, accepted))
            entry = _store(engine, audit, folder, taken or {}, kept)
            entries.append(entry)
            audits[entry.file] = audit
            texts = (*doubts[target, group], *_list_warnings(audit, precision))
            warnings += [f"'{entry.file}': {text}" for text in texts]
            report(f"{target} {' '.join(group)}: {audit.describe()}, {engine.build_seconds:.1f} s")
    if not entries:
        reasons = "; ".join(f"{entry.target}: {entry.reason}" for entry in not_built)
        raise ValueError(f"nothing can be built here: {reasons}")
    written = [name for entry in entries if entry.layers for name in (entry.file, entry.layers)]
    return TargetBuilds(
        entries=tuple(entries),
        not_built=tuple(not_built),
        files={name: hash_file(folder / name) for name in written},
        audits=audits,
        warnings=tuple(warnings),
    )


def check_bf16(targets: Sequence[Target]) -> None:
    """Accept the targets of a BF16 graph.

    Raises:
        ValueError: if one asked for by name computes no BF16.
    """
    if Target.ORT in targets:
        raise ValueError(f"target '{Target.ORT}' cannot be built in BF16: {_NO_BF16}")


def check_fused_tail(targets: Sequence[Target]) -> None:
    """Accept `--fused-tail` for these targets on this machine; other targets keep the plain tail.

    Args:
        targets: those asked for by name; none means all that this machine can build.

    Raises:
        ValueError: if TensorRT is not among them or cannot be built for here.
        ImportError: if Triton, which compiles the kernel, is not installed.
    """
    if targets and Target.TRT not in targets:
        raise ValueError(
            f"--fused-tail: expected --target {Target.TRT}, which alone takes the kernel, got "
            f"{' '.join(targets)}; add it, or leave --fused-tail out"
        )
    if reason := missing_reason(Target.TRT):
        raise ValueError(
            f"--fused-tail: target '{Target.TRT}', which alone takes the kernel, cannot be built "
            f"here: {reason}; leave --fused-tail out"
        )
    import_triton()


def default_capabilities(precision: str) -> tuple[str, ...]:
    """Return the GPUs that TensorRT-RTX compiles for unless others are named."""
    names = BuildOptions().compute_capabilities
    return tuple(n for n in names if precision != "fp8" or _number(n) >= _OLDEST_FP8)


def engine_stem(target: Target, compute_capabilities: Sequence[str]) -> str:
    """Return the name of an engine's files, such as `trt-rtx-sm86-sm89`."""
    return "-".join((target, *(name.lower() for name in compute_capabilities)))


def _check_compilers(
    onnx_path: Path, targets: Sequence[Target], options: BuildOptions, precision: str
) -> dict[tuple[Target, tuple[str, ...]], tuple[str, ...]]:
    """Refuse what no compiler should get, before anything is built.

    Returns:
        What the manifest has to say of each engine's target and compute capabilities.
    """
    compilers = [target for target in targets if target in COMPILERS]
    if not compilers:
        return {}
    check_hygiene(onnx_path)
    attentions = read_attentions(onnx_path)
    doubts = {}
    for target in compilers:
        version = installed_version(target)
        for group in _group_capabilities(target, options):
            wanted = Combination(target, version, group, precision, options.batch[2], attentions)
            doubts[target, group] = check_known_wrong(wanted, options.allow_known_wrong)
    return doubts


def _list_warnings(audit: Audit, precision: str) -> list[str]:
    """Return what the manifest says of an engine."""
    warnings = []
    if audit.unfused and precision != "fp32":
        warnings.append(f"attentions that did not fuse, as allowed: {', '.join(audit.unfused)}")
    warnings += [f"not audited, as allowed: {text}" for text in audit.unaudited]
    if audit.asked_float_sums and audit.float_sums is None:
        warnings.append("attention sums: FP32 was asked for, and the engine does not tell")
    if audit.budget.startswith(_EXCEEDS):
        warnings.append(f"accepted, as allowed: {audit.budget}")
    if audit.fused_tail:
        warnings.append(_EXPERIMENTAL)
    return warnings


def _compare(audit: Audit, name: str | None, is_accepted: bool) -> str:
    """Return how an engine compares with its stored budget, which it may exceed if accepted."""
    try:
        return check_budget(audit, name, read_budgets())
    except AuditError as error:
        if not is_accepted:
            raise
        return f"{_EXCEEDS}: {error}"


def _group_capabilities(target: Target, options: BuildOptions) -> list[tuple[str, ...]]:
    """Return the compute capabilities that share an engine."""
    if target is Target.TRT:
        return [(own_compute_capability(options.device),)]
    names = tuple(dict.fromkeys(name.upper() for name in options.compute_capabilities))
    turing = tuple(name for name in names if _number(name) < _OLDEST_AMPERE)
    ampere = tuple(sorted(set(names) - set(turing), key=_number))
    return [group for group in (turing, ampere) if group]


def check_capabilities(precision: str, names: Sequence[str]) -> None:
    """Refuse GPUs that no compiler knows or that lack the precision, before anything is built.

    Raises:
        ValueError: naming them.
    """
    lacking = [name for name in map(str.upper, names) if _number(name) < _OLDEST_FP8]
    if lacking and precision == "fp8":
        raise ValueError(
            f"compute capability {', '.join(lacking)} has no FP8: expected SM{_OLDEST_FP8} or "
            "later; leave it out, or build with --int8"
        )


def _number(name: str) -> int:
    digits = name.removeprefix("SM")
    if not digits.isdecimal():
        raise ValueError(f"compute capability '{name}': expected the form SM89")
    return int(digits)


def _holds_bf16(onnx_path: Path) -> bool:
    graph = load_without_weights(onnx_path).graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    kinds = {value.type.tensor_type.elem_type for value in typed}
    return TensorProto.BFLOAT16 in kinds


def _check_loads(onnx_path: Path, target: Target) -> BuiltTarget:
    """Return the entry of the ONNX file itself, once a runtime has loaded it on the CPU."""
    if target is Target.ORT:
        from engines.ort_runtime import open_session  # needs onnxruntime, which is optional

        open_session(onnx_path, parse_device("cpu"))
    else:
        from engines.openvino_runtime import compile_model

        compile_model(onnx_path)
    return BuiltTarget(target, installed_version(target), (), onnx_path.name)


def _store(
    engine: BuiltEngine,
    audit: Audit,
    folder: Path,
    taken: Mapping[str, str],
    kept: Collection[str],
) -> BuiltTarget:
    """Write an engine and its layer list into `folder`; return the manifest's entry."""
    stem = engine_stem(engine.target, engine.compute_capabilities)
    if f"{stem}.engine" in kept:
        stem = f"{stem}-added"
    name, layers = f"{stem}.engine", f"layers_{engine.target}.json"
    is_taken = (folder / layers).exists() or layers in kept
    if is_taken or taken.get(layers, name) != name:
        layers = f"layers_{stem}.json"  # for another generation of GPUs
    document = layers_document(engine.kernels, engine.bindings, engine.activation_bytes)
    write_bytes(folder / name, engine.plan)
    write_bytes(folder / layers, json.dumps(document, indent=1).encode())
    return BuiltTarget(
        target=engine.target,
        version=engine.version,
        compute_capabilities=engine.compute_capabilities,
        file=name,
        audit=audit.summary(),
        layers=layers,
        build_seconds=round(engine.build_seconds, 2),
    )
