"""`python -m segvit.evaluate`: mIoU of a checkpoint or an artifact on a data set or a folder.

The one entry point here that looks rightwards, at `engines`, and only for `--artifact`; torch is
imported only for a checkpoint.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from segvit.atomic import write_bytes
from segvit.datasets.folder import FolderDataset, open_folder
from segvit.datasets.folder_evaluation import FolderEvaluation
from segvit.datasets.landcover_evaluation import LandCoverTiles, LandCoverWindows
from segvit.datasets.named import open_dataset, subset_note
from segvit.evaluate_options import parse_arguments
from segvit.evaluation import EvaluationData
from segvit.evaluation_report import (
    describe_metrics,
    draw_comparison,
    format_table,
    write_class_csv,
    write_image_csv,
    write_picture,
)
from segvit.evaluation_run import Tally, Workers, count_all
from segvit.inference import Predict, Protocol
from segvit.metrics import ConfusionMatrix
from segvit.shipped import shipped_checkpoint

if TYPE_CHECKING:
    from segvit.model import SegViT

STATE_NAME = "progress.npz"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate one model; return the exit code, 130 after Ctrl-C."""
    arguments = parse_arguments(argv)
    model = _describe_model(arguments)
    data = _open_data(arguments, model)
    model = _fit_classes(model, data, arguments)
    tally = Tally(ConfusionMatrix(len(data.class_names)), _identify(arguments, model, data))
    state: Path | None = arguments.out / STATE_NAME if arguments.out else None
    if arguments.resume and state:
        tally.load(state)
    started = time.perf_counter()
    with Workers(data, model.open, _list_devices(arguments)) as workers:
        if not _count(arguments, workers, tally, state):
            return 130
        report = _report(arguments, model, data, tally, time.perf_counter() - started)
        if arguments.out:
            _write(arguments.out, report, workers, tally, arguments.save_worst)
    if state:
        state.unlink()
    print(json.dumps(report, indent=2) if arguments.json else format_table(report))
    return 0


@dataclass(frozen=True)
class EvaluatedModel:
    """A checkpoint or an artifact, `sha256` its digest, and what the protocols have to know of it.

    `crop` and `stride` are pixels of its sliding windows, `short_side` what an image's short side
    is resized to, `fill` the pixel that is normalised to zero. With `drops_background` the scores
    of the first class are left out, so that the others compete alone.
    """

    path: Path
    target: str | None  # None: a checkpoint
    sha256: str
    classes: int
    short_side: int
    crop: tuple[int, int]
    stride: tuple[int, int]
    fill: tuple[float, float, float]
    drops_background: bool = False
    added_sha256: str | None = None  # of the list of engines that an artifact gained, if it did

    @contextmanager
    def open(self, device: str, threads: int | None) -> Iterator[Predict]:
        """Yield what maps uint8 crops `(B, h, w, 3)` to scores `(B, K, h, w)`."""
        with self._open(device, threads) as predict:
            yield (lambda crops: predict(crops)[:, 1:]) if self.drops_background else predict

    @contextmanager
    def _open(self, device: str, threads: int | None) -> Iterator[Predict]:
        if self.target is not None:
            from engines.runtime import infer_all, open_runtime

            with open_runtime(
                self.path, self.target, device, threads, digest=self.sha256
            ) as runtime:
                yield partial(infer_all, runtime)
            return
        import torch

        from segvit.prediction import predict_scores

        if threads is not None:
            torch.set_num_threads(threads)
        yield partial(predict_scores, _load_checkpoint(self.path).to(device))


@lru_cache(maxsize=1)
def _load_checkpoint(path: Path) -> SegViT:
    from segvit.checkpoint import load_checkpoint

    return load_checkpoint(path)


def _describe_model(arguments: argparse.Namespace) -> EvaluatedModel:
    if arguments.artifact:
        return _describe_artifact(arguments.artifact, arguments.target, arguments.digest)
    path = arguments.checkpoint or shipped_checkpoint(arguments.model)
    model = _load_checkpoint(path)
    config, provenance = model.config, model.provenance
    assert provenance is not None
    if provenance.random_parts:
        raise ValueError(f"checkpoint '{path}' has no decode head; train it first")
    side, stride = config.image_size, config.stride or config.image_size
    short_side = config.short_side or side
    return EvaluatedModel(
        path, None, provenance.sha256, config.num_classes, short_side, (side, side),
        (stride, stride), config.mean,
    )  # fmt: skip


def _describe_artifact(folder: Path, target: str, digest: str | None) -> EvaluatedModel:
    """Return what the manifest says; windows are as large as the engine's input."""
    from export.engine_list import ENGINES_NAME
    from export.manifest import Manifest, hash_file

    manifest = Manifest.read(folder, digest)
    assert manifest.digest is not None
    model, output = manifest.model, manifest.outputs[0]
    if output.name != "scores":
        raise ValueError(
            f"artifact '{folder}' gives {output.name}, and the protocols average scores; build it "
            "with --output scores and without --mode slide"
        )
    if model.crop is None or model.stride is None or model.mean is None:
        raise ValueError(
            f"artifact '{folder}' does not say the model's crop, stride and mean; it is of an "
            "earlier version, build it again"
        )
    height, width = (int(side) for side in manifest.input.shape[1:3])
    stride = tuple(max(1, round(model.stride * side / model.crop)) for side in (height, width))
    return EvaluatedModel(
        folder, target, manifest.digest, len(manifest.classes),
        model.short_side or model.crop,
        (height, width), (stride[0], stride[1]), model.mean,
        added_sha256=hash_file(folder / ENGINES_NAME) if manifest.added else None,
    )  # fmt: skip


def _make_protocol(arguments: argparse.Namespace, model: EvaluatedModel) -> Protocol:
    # The map's images come at their size: their short side is not resized.
    on_map = arguments.dataset == "landcover"
    return Protocol.published(
        model.crop,
        model.stride,
        arguments.image_size if on_map else model.short_side,
        slides=arguments.mode == "slide",
        multi_scale=arguments.multi_scale,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
    )


def _open_data(arguments: argparse.Namespace, model: EvaluatedModel) -> EvaluationData:
    name, split = arguments.dataset, arguments.split
    if name == "landcover" and arguments.mode is None:
        return LandCoverTiles(split, arguments.batch_size)
    protocol = _make_protocol(arguments, model)
    if name == "landcover":
        return LandCoverWindows(split, arguments.image_size, protocol, model.fill)
    data: FolderDataset
    if name == "folder":
        data = open_folder(
            arguments.images, arguments.masks, arguments.classes, arguments.reduce_zero_label
        )
    else:
        data = open_dataset(name, arguments.data, split)
        note = subset_note(name, split, len(data))
        if note:
            print(f"note: {note}", file=sys.stderr)
    return FolderEvaluation(data, protocol, model.fill)


def _fit_classes(
    model: EvaluatedModel, data: EvaluationData, arguments: argparse.Namespace
) -> EvaluatedModel:
    """Return the model, without its background where the data set ignores that.

    Raises:
        ValueError: if model and data differ in the number of classes.
    """
    if model.classes == len(data.class_names):
        return model
    if arguments.dataset == "pascal_context_59" and model.classes == 60:
        return replace(model, drops_background=True)
    kind = "checkpoint" if model.target is None else "artifact"
    source = f"'{arguments.classes}'" if arguments.dataset == "folder" else arguments.dataset
    raise ValueError(
        f"{kind} '{model.path}' has {model.classes} classes, {source} has "
        f"{len(data.class_names)}; give a {kind} of these classes"
        + (
            ", or --dataset pascal_context_59"
            if arguments.dataset == "pascal_context" and model.classes == 59
            else ""
        )
    )


def _identify(
    arguments: argparse.Namespace, model: EvaluatedModel, data: EvaluationData
) -> dict[str, Any]:
    """Return all that the result depends on."""
    names = "\n".join(data.name(index) for index in range(len(data)))
    options = ("dataset", "split", "mode", "multi_scale", "flip", "image_size",
               "reduce_zero_label", "skip_unreadable")  # fmt: skip
    return {
        "model": model.sha256,
        "added engines": model.added_sha256,
        **{option.replace("_", "-"): getattr(arguments, option) for option in options},
        "images": len(data),
        "image names' hash": hashlib.sha256(names.encode()).hexdigest(),
    }


def _list_devices(arguments: argparse.Namespace) -> list[str]:
    """Return a device a process: one GPU each, counted from the one named."""
    count = arguments.devices
    device: str = arguments.device or ("0" if arguments.artifact else "cpu")
    kind, _, first = device.rpartition(":") if ":" in device else (device, "", "0")
    if device.isdecimal():
        return [str(int(device) + index) for index in range(count)]
    if count == 1 or kind == "cpu" or not first.isdecimal():
        return [device] * count
    return [f"{kind}:{int(first) + index}" for index in range(count)]


def _count(
    arguments: argparse.Namespace, workers: Workers, tally: Tally, state: Path | None
) -> bool:
    """Count all samples under a progress bar; return False where Ctrl-C ended it."""
    total = len(workers.data)
    done = total - len(tally.left(total))
    try:
        with tqdm(
            total=total, initial=done, unit="image", disable=arguments.json, leave=False
        ) as bar:

            def report() -> None:
                bar.set_postfix(mIoU=f"{tally.matrix.compute().miou:.4f}", refresh=False)
                bar.update()

            count_all(tally, workers, arguments.skip_unreadable, state, report)
    except KeyboardInterrupt:
        if state is None:
            raise
        done = total - len(tally.left(total))
        print(f"stopped after {done} of {total} images; go on with the same command and --resume")
        return False
    return True


def _report(
    arguments: argparse.Namespace,
    model: EvaluatedModel,
    data: EvaluationData,
    tally: Tally,
    seconds: float,
) -> dict[str, Any]:
    report: dict[str, Any] = {"model": model.path.name, "dataset": arguments.dataset}
    report |= {"split": arguments.split} if arguments.split else {}
    report |= {"images": len(tally.miou), "mode": arguments.mode or "tiles"}
    if arguments.mode:
        protocol = _make_protocol(arguments, model)
        report |= {"scales": list(protocol.scales), "flip": protocol.flip}
        report |= {"crop": protocol.crop, "stride": protocol.stride}
        report |= {"short_side": protocol.short_side}
    report |= describe_metrics(tally.matrix, data.class_names)
    if isinstance(data, LandCoverTiles | LandCoverWindows):
        floor = data.map.colour_floor(arguments.split)
        report |= {
            "colour_floor_miou": floor.miou,
            "colour_floor_pixel_accuracy": floor.pixel_accuracy,
            "above_floor": report["miou"] - floor.miou,
            "colour_floor_iou": dict(zip(data.class_names, floor.iou.tolist(), strict=True)),
        }
    report["unreadable"] = [tally.unreadable[index] for index in sorted(tally.unreadable)]
    return {**report, "devices": arguments.devices, "seconds": round(seconds, 1)}


def _write(
    out: Path, report: dict[str, Any], workers: Workers, tally: Tally, worst_count: int
) -> None:
    """Write the report, the tables and the pictures of the worst images."""
    data = workers.data
    worst = tally.worst(worst_count)
    labelled = workers.label(worst)
    for rank, index in enumerate(worst, 1):
        picture = draw_comparison(labelled[index], data.class_names, data.palette)
        name = f"{rank:03d}_{data.name(index)}_miou{tally.miou[index]:.3f}.png"
        write_picture(out / "worst" / name, picture)
    write_class_csv(out / "classes.csv", tally.matrix, data.class_names)
    names = [data.name(index) for index in range(len(data))]
    write_image_csv(out / "images.csv", names, tally.miou)
    write_bytes(out / "report.json", f"{json.dumps(report, indent=2)}\n".encode())


if __name__ == "__main__":
    run_main(main)
