"""What is timed: artifacts, and what a user would run instead; each opened from a description.

Shapes: `B` batch, `H, W` pixels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.arrays import Images
from engines.devices import parse_device
from engines.runtime import open_runtime
from engines.target import AUTO, COMPILERS, parse_targets
from export.manifest import Manifest

if TYPE_CHECKING:
    from segvit.model import SegViT

Infer = Callable[[Images], NDArray[np.integer[Any]]]
EAGER, COMPILED, NAIVE = "PyTorch eager", "torch.compile", "plain export on ort"
NO_PEERS = "none"
PEERS = ("eager", "compile", "ort", "openvino", "naive-onnx", "trtexec")
_FROM_TORCH = {"eager": EAGER, "compile": COMPILED, "naive-onnx": NAIVE}


@dataclass(frozen=True)
class Candidate:
    """What to time and how to open it, anywhere: it can be sent to another process.

    `kind` is `artifact`, or a peer that is made from the reference: `eager`, `compile`,
    `naive-onnx`. `threads` are those of the CPU, of all `instances` of an artifact together;
    `device` is PyTorch's.
    """

    name: str
    kind: str
    folder: Path
    target: str
    threads: int
    batch: int
    precision: str = "fp32"
    checkpoint: Path | None = None
    device: str = "cpu"
    instances: int = 1

    @property
    def from_torch(self) -> bool:
        """Whether it is made from the reference, not from an artifact's graph."""
        return self.kind in _FROM_TORCH


def list_candidates(
    artifacts: Sequence[Path],
    targets: Sequence[str],
    peers: Sequence[str],
    threads: int,
    batch: int,
    checkpoint: Path | None,
) -> tuple[list[Candidate], list[str]]:
    """Return what to time, the reference first, and why something of it is left out.

    Args:
        artifacts: of one model and size; `peers` are made from the first.
        targets: each artifact runs on all of them that it was built for; `auto` is its best.
        peers: of `PEERS`.
        threads: CPU threads of each candidate.
        batch: images a call.
        checkpoint: the reference's weights, where the artifact does not say.

    Raises:
        ValueError: if the artifacts differ in model or size, one gives scores or does not take the
            batch, or a target or peer cannot run here.
    """
    manifests = check_artifacts(artifacts, batch)
    first, found = artifacts[0], list[Candidate]()
    pairs, left_out = _pair_targets(artifacts, manifests, targets)
    on_gpu = any(name in COMPILERS for _, name in pairs)
    device = "cuda" if on_gpu else "cpu"
    base = Candidate("", "artifact", first, "", threads, batch, "fp32", checkpoint, device)
    for kind, name in _FROM_TORCH.items():
        if kind in peers:
            found.append(replace(base, name=name, kind=kind))
    pairs += [(first, peer) for peer in ("ort", "openvino") if peer in peers]
    for folder, name in dict.fromkeys(pairs):
        precision = manifests[artifacts.index(folder)].precision
        title = f"{name} {precision}"
        if title in (candidate.name for candidate in found):
            title += f" ({folder.name})"
        found.append(replace(base, name=title, folder=folder, target=name, precision=precision))
    if "trtexec" in peers and shutil.which("trtexec") is None:
        raise ValueError(
            "--vs trtexec: trtexec is not installed; it comes with TensorRT's tar or Debian "
            "package (not with its wheel): put it on PATH, or leave it out of --vs"
        )
    return found, left_out


def check_artifacts(artifacts: Sequence[Path], batch: int | None = None) -> list[Manifest]:
    """Return the manifests of artifacts that can be compared.

    Raises:
        ValueError: if they differ in model or size, one gives scores, or does not take the batch.
    """
    manifests = [Manifest.read(folder) for folder in artifacts]
    first = manifests[0]
    for folder, manifest in zip(artifacts, manifests, strict=True):
        if (manifest.model, manifest.input) != (first.model, first.input):
            raise ValueError(
                f"'{folder}' is another model or size than '{artifacts[0]}': expected "
                f"{_describe(first)}, got {_describe(manifest)}; give artifacts of one model"
            )
        if manifest.outputs[0].name != "labels":
            raise ValueError(f"'{folder}' gives scores; build it with --output labels to compare")
        smallest, _, largest = manifest.batch
        if batch is not None and not smallest <= batch <= largest:
            raise ValueError(
                f"--batch {batch}: '{folder}' takes {smallest} to {largest} images a call; build "
                "it with --batch MIN:OPT:MAX"
            )
    return manifests


@dataclass(frozen=True)
class Opened:
    """A candidate ready to run, and what its library said of it."""

    infer: Infer
    notes: tuple[str, ...] = ()


def open_candidate(candidate: Candidate, stack: ExitStack) -> Opened:
    """Return the candidate ready to run; `stack` closes it. It takes images `(B, H, W, 3)`.

    Raises:
        ValueError: if it cannot run here.
    """
    if candidate.kind == "artifact":
        runtime = stack.enter_context(
            open_runtime(
                candidate.folder,
                candidate.target,
                threads=candidate.threads,
                instances=candidate.instances,
            )
        )
        return Opened(runtime.infer, runtime.notes)
    if candidate.kind == "naive-onnx":
        return _open_naive(candidate, stack)
    return _open_torch(candidate)


def run_once(candidate: Candidate, images: Images) -> None:
    """Open a candidate and label images: what its peak memory is taken of."""
    with ExitStack() as stack:
        open_candidate(candidate, stack).infer(images)


def load_reference(folder: Path, checkpoint: Path | None) -> SegViT:
    """Return the reference that an artifact was built from; weights that it drew are drawn anew.

    Raises:
        ValueError: if its checkpoint is not given, or is another one.
    """
    from segvit.checkpoint import load_checkpoint  # the reference side alone needs torch
    from segvit.config import find_variant
    from segvit.model import build_model
    from segvit.shipped import SHIPPED_MODELS, shipped_checkpoint

    described = Manifest.read(folder).model
    if described.checkpoint_sha256 is None:
        return build_model(find_variant(described.name)).eval()
    if checkpoint is None and described.name in SHIPPED_MODELS:
        checkpoint = shipped_checkpoint(described.name)
    if checkpoint is None:
        raise ValueError(
            f"'{folder}' was built from a checkpoint: give it with --checkpoint, or leave PyTorch "
            f"out with --vs {NO_PEERS}"
        )
    model = load_checkpoint(checkpoint)
    if model.provenance and model.provenance.sha256 != described.checkpoint_sha256:
        raise ValueError(
            f"checkpoint '{checkpoint}' is not the one '{folder}' was built from; give that one "
            "with --checkpoint"
        )
    return model.eval()


def _pair_targets(
    artifacts: Sequence[Path], manifests: Sequence[Manifest], targets: Sequence[str]
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return which artifact to run on what, and which of the targets an artifact lacks.

    Raises:
        ValueError: if a target is unknown, an artifact has none of them, or none runs here.
    """
    wanted, pairs, lacking = parse_targets(targets), list[tuple[Path, str]](), list[str]()
    for folder, manifest in zip(artifacts, manifests, strict=True):
        has = {entry.target for entry in manifest.targets}
        chosen = [str(name) for name in wanted if name in has]
        if not wanted or not chosen:
            # Opened to be chosen by, or to say why it cannot be.
            with open_runtime(folder, wanted[0] if wanted else AUTO) as runtime:
                chosen = [runtime.target]
        pairs += [(folder, name) for name in chosen]
        lacking += [f"{folder.name} is not built for {name}" for name in wanted
                    if name not in chosen]  # fmt: skip
    return pairs, lacking


def _open_naive(candidate: Candidate, stack: ExitStack) -> Opened:
    """Export the reference as anyone would, and run that on ONNX Runtime."""
    import onnx_ir as ir

    from benchmarks.plain_model import PlainModel
    from engines.ort_runtime import open_session
    from export.trace import trace_model

    manifest = Manifest.read(candidate.folder)
    height, width = (int(side) for side in manifest.input.shape[1:3])
    model = PlainModel(load_reference(candidate.folder, candidate.checkpoint))
    graph = trace_model(model, (height, width), candidate.batch)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.onnx"
    ir.save(graph, path, external_data="model.onnx.data")
    session = open_session(path, parse_device(candidate.device), candidate.threads)
    return Opened(lambda images: np.asarray(session.run(None, {"image": images})[0]))


def _open_torch(candidate: Candidate) -> Opened:
    """Run the reference on images, scores then argmax, as they come from and go to NumPy."""
    import torch

    from segvit.prediction import normalise

    torch.set_num_threads(candidate.threads)
    model = load_reference(candidate.folder, candidate.checkpoint).to(candidate.device)
    compiled = candidate.kind == "compile"
    mode = "max-autotune" if candidate.device == "cuda" else None
    score = torch.compile(model, mode=mode) if compiled else model

    def infer(images: Images) -> NDArray[np.integer[Any]]:
        with torch.inference_mode():
            scores = score(normalise(images, model.config, candidate.device))
            return np.asarray(scores.argmax(dim=1).cpu().numpy())

    return Opened(infer)


def _describe(manifest: Manifest) -> str:
    height, width = manifest.input.shape[1:3]
    return f"{manifest.model.name} at {height}x{width}"
