"""Engines behind one protocol: uint8 images in, labels (or scores) out."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from engines.arrays import Images, Output, batch_shape, check_images, check_output
from engines.devices import Device, parse_device
from engines.pool import Engine, Instance, InstancePool, StreamLease
from engines.target import AUTO, COMPILERS, PREFERENCE, Target, cannot_run_reason, parse_targets
from export.manifest import BuiltTarget, Manifest, verify_file


class Runtime:
    """A loaded engine, whichever it is; a context manager that frees what it holds.

    Any thread may call it: as many calls run at once as there are instances, others wait. Whatever
    a call raises, the next one works. `batch` is (min, typical, max) images a call.

    Args:
        engine: closed with the runtime.
        manifest: of the artifact that holds it.
        instances: calls that run at once.
        notes: what `open_runtime` passed over.

    Raises:
        ValueError: if `instances` is not positive.
    """

    def __init__(
        self, engine: Engine, manifest: Manifest, instances: int = 1, notes: tuple[str, ...] = ()
    ) -> None:
        self.target, self.instances = engine.target, instances
        self._engine, self._passed_over = engine, notes
        self.input, self.output = manifest.input, manifest.outputs[0]
        self.classes, self.palette = manifest.classes, manifest.palette
        self.batch = manifest.batch
        self._pool = InstancePool(engine, instances)
        self._workers = ThreadPoolExecutor(instances, thread_name_prefix="runtime")

    @property
    def notes(self) -> tuple[str, ...]:
        """Which better target was passed over and why, and what the engine has to say."""
        return *self._passed_over, *self._engine.notes

    def infer(self, images: object, out: object = None) -> Output:
        """Return labels `(B, H, W)` or scores `(B, C, H, W)` of RGB images `(B, H, W, 3)`.

        Args:
            images: uint8, a numpy array or what numpy can view without a copy (DLPack, the array
                interface); on an NVIDIA GPU, an array there as well. Images that are not
                contiguous are copied first.
            out: a contiguous array of the output's shape and dtype to write to and return; nothing
                of an image's size is allocated then.

        Raises:
            ValueError: if the images are not what `input` and `batch` say, `out` does not fit, or
                the runtime is closed.
            RuntimeError: if the engine fails, with its library's own message.
        """
        with self._pool.admit():
            return self._call(images, out)

    def infer_async(self, images: object) -> Future[Output]:
        """Return the future of what `infer` returns, or raises.

        The images must stay as they are until it is done.
        """
        try:
            self._pool.enter()
        except ValueError as error:
            refused: Future[Output] = Future()
            refused.set_exception(error)
            return refused
        try:
            future = self._workers.submit(self._call, images, None)
        except BaseException:
            self._pool.leave()
            raise
        future.add_done_callback(lambda _: self._pool.leave())
        return future

    def stream(self, batches: Iterable[object]) -> Iterator[Output]:
        """Yield what `infer` returns for each batch, in order.

        The next batches are fetched while earlier ones compute, `instances` plus one ahead (two on
        a GPU, whose copies overlap with computation), so each must stay as it is until its output
        came. An error comes in its place: what was asked for before it is yielded first, be it an
        error of `batches` itself. Between two outputs, and while a batch is fetched, a stream holds
        no instance: other calls and streams go on beside it, `batches` may make some itself, and
        `close` does not wait for it.
        """
        return self._stream_through(batches) if self._engine.streams else self._run_ahead(batches)

    def _run_ahead(self, batches: Iterable[object]) -> Iterator[Output]:
        """Stream over all instances."""
        waiting: deque[Future[Output]] = deque()
        source = iter(batches)
        try:
            while True:
                try:
                    images = next(source)
                except StopIteration:
                    break
                except Exception as error:  # the caller's own, which comes in its place
                    failed: Future[Output] = Future()
                    failed.set_exception(error)
                    waiting.append(failed)
                    break
                waiting.append(self.infer_async(images))
                if len(waiting) > self.instances:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _stream_through(self, batches: Iterable[object]) -> Iterator[Output]:
        """Stream through one instance, which overlaps copies and computation by itself."""
        lease = self._pool.lease()
        fetched = self._fetch(lease, iter(batches))
        outputs = lease.instance.stream(fetched)
        try:
            while True:
                with lease:
                    output = next(outputs, None)
                if output is None:
                    return
                yield output
        finally:
            fetched.close()
            lease.end(outputs)

    def _fetch(self, lease: StreamLease, source: Iterator[object]) -> Generator[Any]:
        """Yield batches as the instance takes them; it is others' while the source makes one."""
        end = object()
        while True:
            with lease.pause():
                images = next(source, end)
            if images is end:
                return
            yield self._view(lease.instance, images)

    def warm_up(self, calls: int = 2) -> None:
        """Run blank images of the typical batch `calls` times on every instance.

        A CUDA graph is captured by the second call of a shape.

        Raises:
            ValueError: if `calls` is not positive, or the runtime is closed.
        """
        if calls < 1:
            raise ValueError(f"calls: expected at least 1, got {calls}")
        images = np.zeros(batch_shape(self.input, self.batch[1]), np.uint8)
        with self._pool.admit():
            for number in range(self.instances):
                with self._pool.lend(number) as instance:
                    for _ in range(calls):
                        instance.run(instance.view(images, "images"), None)

    def close(self) -> None:
        """Wait for the calls in flight and free the engine; a second call does nothing more."""
        self._pool.close()
        self._workers.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, images: object, out: object) -> Output:
        with self._pool.lend() as instance:
            viewed = self._view(instance, images)
            if out is None:
                return instance.run(viewed, None)
            target = instance.view(out, "out")
            check_output(target, self.output, viewed.shape[0])
            instance.run(viewed, target)
            return cast(Output, out)

    def _view(self, instance: Instance, images: object) -> Any:
        viewed = instance.view(images, "images")
        check_images(viewed, self.input, self.batch)
        return viewed


def open_runtime(
    artifact: str | Path,
    target: str = AUTO,
    device: int | str = 0,
    threads: int | None = None,
    instances: int = 1,
    rebuild: bool = False,
    digest: str | None = None,
) -> Runtime:
    """Return the runtime of an artifact folder, its files checked before anything is loaded.

    Args:
        artifact: the folder that `python -m export.build` made.
        target: `trt`, `trt-rtx`, `ort`, `openvino`, or `auto` for the best of them that runs here.
        device: the GPU's number, or `cpu`, `cuda:1`, `tensorrt:0` to choose ONNX Runtime's
            execution provider; a number lets ONNX Runtime use the CPU.
        threads: CPU threads of ONNX Runtime and OpenVINO, of all instances together; None leaves
            them to those.
        instances: calls that run at once, each with memory of its own.
        rebuild: build the engine first where the artifact has none for this GPU and version; see
            `engines.rebuild.fit_artifact`, which can also say what it does.
        digest: the artifact's, the sha256 of its `manifest.json` as builds print it: another
            artifact is refused. None accepts any.

    Raises:
        FileNotFoundError: if there is no artifact.
        ManifestError: if the artifact has another digest, or the manifest or a file it lists is not
            as built.
        ValueError: if `digest` is none, if there is no engine of that target, or it cannot run
            here: no GPU, another GPU or version than it was built for.
    """
    for name, count in (("instances", instances), ("threads", threads)):
        if count is not None and count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if rebuild:
        from engines.rebuild import fit_artifact  # needs onnx, which a deploy host may lack

        fit_artifact(artifact, target, device, digest=digest)
    folder = Path(artifact)
    manifest = Manifest.read(folder, digest)
    chosen = parse_device(device)
    wanted = parse_targets([target])

    def load(target: Target, notes: tuple[str, ...]) -> Runtime:
        engine = _load_engine(folder, manifest, target, chosen, threads, instances)
        return Runtime(engine, manifest, instances, notes)

    if wanted:
        return load(wanted[0], ())
    notes: list[str] = []
    for candidate in PREFERENCE:
        reason = _passing_over_reason(folder, manifest, candidate, chosen)
        if reason is None:
            return load(candidate, tuple(notes))
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
        return fitting[-1]  # the newest: a rebuilt engine stands behind the one it replaces
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
    return verify_onnx_file(folder, find_entry(folder, manifest, target).file, manifest)


def verify_onnx_file(folder: Path, name: str, manifest: Manifest) -> Path:
    """Return the path of an artifact's ONNX file, it and its weights as built.

    Raises:
        ManifestError: if a file is not the one the manifest lists.
    """
    for beside in manifest.files:
        if beside.startswith(f"{name}."):  # external data of a model above 2 GB
            verify_file(folder, beside, manifest)
    return verify_file(folder, name, manifest)


def _load_engine(
    folder: Path,
    manifest: Manifest,
    target: Target,
    device: Device,
    threads: int | None,
    instances: int,
) -> Engine:
    if target is Target.ORT:
        from engines.ort_runtime import OrtEngine

        return OrtEngine(folder, manifest, device, threads)
    if target is Target.OPENVINO:
        reason = cannot_run_reason(target)
        if reason is not None:
            raise ValueError(f"target '{target}' cannot run here: {reason}")
        from engines.openvino_runtime import OpenVinoEngine

        return OpenVinoEngine(folder, manifest, device, threads, instances)
    reason = cannot_run_reason(target)
    if device.provider != AUTO:
        reason = f"--device {device} chooses ONNX Runtime's provider; give a GPU's number"
    entry = find_entry(folder, manifest, target)
    if reason is not None:
        # That an engine was changed matters on every machine, so it is said first.
        verify_file(folder, entry.file, manifest)
        raise ValueError(f"target '{target}' cannot run here: {reason}")
    from engines.trt_runtime import TrtEngine

    return TrtEngine(folder, manifest, target, device.index)


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
