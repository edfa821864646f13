"""Engines behind one protocol: uint8 images in, labels (or scores) out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from engines.devices import Device, parse_device
from engines.target import AUTO, COMPILERS, PREFERENCE, Target, cannot_run_reason, parse_targets
from export.manifest import BuiltTarget, Manifest, TensorSpec, verify_file

Images = npt.NDArray[np.uint8]
Output = npt.NDArray[Any]


class Runtime(Protocol):
    """A loaded engine. One thread at a time; a context manager that frees what it holds.

    `batch` is (min, typical, max) images a call. `notes` says which better target was passed over
    and why.
    """

    target: Target
    input: TensorSpec
    output: TensorSpec
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    batch: tuple[int, int, int]
    notes: tuple[str, ...]

    def infer(self, images: Images) -> Output:
        """Return labels `(B, H, W)` or scores `(B, C, H, W)` of RGB images `(B, H, W, 3)`.

        Raises:
            ValueError: if the images are not what `input` and `batch` say.
        """
        ...

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_runtime(
    artifact: str | Path,
    target: str = AUTO,
    device: int | str = 0,
    threads: int | None = None,
) -> Runtime:
    """Return the runtime of an artifact folder, its files checked before anything is loaded.

    Args:
        artifact: the folder that `python -m export.build` made.
        target: `trt`, `trt-rtx`, `ort`, `openvino`, or `auto` for the best of them that runs here.
        device: the GPU's number, or `cpu`, `cuda:1`, `tensorrt:0` to choose ONNX Runtime's
            execution provider; a number lets ONNX Runtime use the CPU.
        threads: CPU threads of ONNX Runtime and OpenVINO; None leaves them to those.

    Raises:
        FileNotFoundError: if there is no artifact.
        ManifestError: if the manifest or a file it lists is not as built.
        ValueError: if there is no engine of that target, or it cannot run here: no GPU, another
            GPU or version than it was built for.
    """
    folder = Path(artifact)
    manifest = Manifest.read(folder)
    chosen = parse_device(device)
    wanted = parse_targets([target])
    if wanted:
        return _open_target(folder, manifest, wanted[0], chosen, threads, ())
    notes: list[str] = []
    for candidate in PREFERENCE:
        reason = _passing_over_reason(folder, manifest, candidate, chosen)
        if reason is None:
            return _open_target(folder, manifest, candidate, chosen, threads, tuple(notes))
        notes.append(f"{candidate}: {reason}")
    raise ValueError(f"'{folder}' holds nothing that runs here: {'; '.join(notes)}")


def infer_all(runtime: Runtime, images: Images) -> Output:
    """Return an engine's output for any number of images, in as many calls as its batch takes.

    The last call of a fixed batch is filled up with copies, whose output is dropped.
    """
    smallest, _, largest = runtime.batch
    outputs = []
    for start in range(0, max(len(images), 1), largest):  # none: the engine says what it takes
        part = images[start : start + largest]
        filled = np.concatenate([part, *[part[-1:]] * (smallest - len(part))])
        outputs.append(runtime.infer(filled)[: len(part)])
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def check_images(images: Images, spec: TensorSpec, batch: tuple[int, int, int]) -> Images:
    """Return the images, contiguous, after comparing them with an engine's input.

    Raises:
        ValueError: if type, shape or number differ.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images: expected a uint8 array of RGB pixels, got {got}")
    expected = tuple(spec.shape[1:])
    if images.ndim != 4 or images.shape[1:] != expected:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"images: expected shape (B, {wanted}), got {images.shape}")
    smallest, _, largest = batch
    if not smallest <= len(images) <= largest:
        wanted = str(smallest) if smallest == largest else f"{smallest} to {largest}"
        raise ValueError(f"images: expected a batch of {wanted}, got {len(images)}")
    return np.ascontiguousarray(images)


def find_entry(
    folder: Path, manifest: Manifest, target: Target, capability: str | None = None
) -> BuiltTarget:
    """Return the entry of a target, for one compute capability where one is given.

    Raises:
        ValueError: if there is none; the message has the command that makes one.
    """
    entries = [entry for entry in manifest.targets if entry.target == target]
    fitting = [e for e in entries if capability is None or capability in e.compute_capabilities]
    if fitting:
        return fitting[0]
    build = f"build it: python -m engines.build --artifact {folder} --target {target}"
    if not entries:
        have = ", ".join(dict.fromkeys(entry.target for entry in manifest.targets)) or "none"
        raise ValueError(f"'{folder}' holds no {target} engine, only {have}; {build}")
    built = ", ".join(sorted({sm for entry in entries for sm in entry.compute_capabilities}))
    extra = f" --compute-capability {capability}" if target is Target.TRT_RTX else ""
    raise ValueError(
        f"'{folder}' holds {target} engines for {built}, and this GPU is {capability}; "
        f"{build}{extra}"
    )


def verify_onnx(folder: Path, manifest: Manifest, target: Target) -> Path:
    """Return the ONNX file of a target that runs it as such, it and its weights as built.

    Raises:
        ManifestError: if a file is not the one the manifest lists.
        ValueError: if the artifact has no such target.
    """
    entry = find_entry(folder, manifest, target)
    for name in manifest.files:
        if name.startswith(f"{entry.file}."):  # external data of a model above 2 GB
            verify_file(folder, name, manifest)
    return verify_file(folder, entry.file, manifest)


def _open_target(
    folder: Path,
    manifest: Manifest,
    target: Target,
    device: Device,
    threads: int | None,
    notes: Sequence[str],
) -> Runtime:
    if target is Target.ORT:
        from engines.ort_runtime import OrtRuntime

        return OrtRuntime(folder, manifest, device, threads, tuple(notes))
    if target is Target.OPENVINO:
        reason = cannot_run_reason(target)
        if reason is not None:
            raise ValueError(f"target '{target}' cannot run here: {reason}")
        from engines.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(folder, manifest, device, threads, tuple(notes))
    reason = cannot_run_reason(target)
    if device.provider != AUTO:
        reason = f"--device {device} chooses ONNX Runtime's provider; give a GPU's number"
    entry = find_entry(folder, manifest, target)
    if reason is not None:
        # That an engine was changed matters on every machine, so it is said first.
        verify_file(folder, entry.file, manifest)
        raise ValueError(f"target '{target}' cannot run here: {reason}")
    from engines.trt_runtime import TrtRuntime

    return TrtRuntime(folder, manifest, target, device.index, tuple(notes))


def _passing_over_reason(
    folder: Path, manifest: Manifest, target: Target, device: Device
) -> str | None:
    """Return why `auto` does not take a target, None if it does."""
    if all(entry.target != target for entry in manifest.targets):
        return "not built"
    if target not in COMPILERS:
        return cannot_run_reason(target)
    if device.provider != AUTO:
        return f"--device {device} was asked for"
    reason = cannot_run_reason(target)
    if reason is not None:
        return reason
    from engines.trt_runtime import find_usable_entry

    try:
        find_usable_entry(folder, manifest, target, device.index)
    except ValueError as error:
        return str(error)
    return None
