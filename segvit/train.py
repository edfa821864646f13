"""`python -m segvit.train`: train a SegViT, resumably, on one device or many."""

from __future__ import annotations

import argparse
import csv
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.cli import run_main
from segvit.config import VARIANTS, find_variant
from segvit.datasets.folder import open_folder
from segvit.datasets.training_data import FolderTraining, LandCoverTraining, TrainingData
from segvit.loss import ATMLoss
from segvit.metrics import SegmentationMetrics
from segvit.model import SegViT, build_model
from segvit.prediction import normalise, predict_scores
from segvit.training_state import (
    TrainingSettings,
    WeightAverage,
    load_state,
    restore,
    save_state,
)

STATE_NAME = "state.pt"
_FOLDER_PATHS = {
    "images": "folder to learn from",
    "masks": "its grey PNGs of class ids, named as the images",
    "val_images": "folder to evaluate on",
    "val_masks": "its masks",
    "classes": "text file, a class a line: name, or name,red,green,blue",
}
CLIP_NORM = 1.0
_EPILOG = """\
example:
  python -m segvit.train --model vit_t_landcover --dataset landcover --out runs/landcover
  python -m segvit.train --model vit_b_ade20k --dataset folder --images a/images --masks a/masks \\
      --val-images b/images --val-masks b/masks --classes classes.txt --checkpoint vit_base.npz \\
      --out runs/mine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate one model."""
    arguments = _parse_arguments(argv)
    fabric = Fabric(
        accelerator=arguments.device,
        devices=arguments.devices,
        strategy=arguments.strategy,
        precision=arguments.precision,
    )
    fabric.launch()
    names = ("model", "dataset", "max_steps", "batch_size", "learning_rate", "weight_decay",
             "warmup_steps", "seed")  # fmt: skip
    settings = TrainingSettings(**{name: getattr(arguments, name) for name in names})
    if settings.batch_size % fabric.world_size:
        raise ValueError(
            f"batch size {settings.batch_size} cannot be shared by {fabric.world_size} devices; "
            f"give a multiple of {fabric.world_size}"
        )
    run = TrainingRun(fabric, settings, arguments)
    return run.train()


class TrainingRun:
    """One run in one folder: weights, their average, the optimizer and the log."""

    def __init__(
        self, fabric: Fabric, settings: TrainingSettings, arguments: argparse.Namespace
    ) -> None:
        self.fabric, self.settings = fabric, settings
        self.out: Path = arguments.out
        self.eval_every: int = arguments.eval_every
        self.json: bool = arguments.json
        self.half: bool = arguments.half
        self.data = _open_data(settings, arguments)
        torch.manual_seed(settings.seed)
        config = self.data.config
        checkpoint = arguments.checkpoint
        self.model: SegViT = (
            load_checkpoint(checkpoint, config) if checkpoint else build_model(config)
        )
        if arguments.backbone:
            _take_backbone(self.model, arguments.backbone)
        if self.model.config.num_classes != config.num_classes:
            raise ValueError(
                f"checkpoint '{checkpoint}' has {self.model.config.num_classes} classes, the data "
                f"{config.num_classes}; take its encoder alone with --backbone"
            )
        self.evaluated = build_model(config)
        optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self.loss = ATMLoss(config.num_classes).to(fabric.device)
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.average = WeightAverage(self.model)
        self.step, self.best_miou = 0, 0.0
        if arguments.resume:
            state = load_state(self.out / STATE_NAME, settings)
            self.step, self.best_miou = restore(state, self.model, optimizer, self.average)
        elif (self.out / STATE_NAME).exists():
            raise ValueError(
                f"'{self.out}' already holds a run; go on with --resume, or give another --out"
            )
        self._raw_optimizer = optimizer
        self._stopping = False

    def train(self) -> int:
        """Train to the last step; return the exit code, 130 after Ctrl-C."""
        self.out.mkdir(parents=True, exist_ok=True)
        previous = signal.signal(signal.SIGINT, self._stop)
        start = time.perf_counter()
        progress = tqdm(
            total=self.settings.max_steps, initial=self.step, desc="train", unit="step",
            disable=self.json or not self.fabric.is_global_zero,
        )  # fmt: skip
        metrics: SegmentationMetrics | None = None
        with progress:
            while self.step < self.settings.max_steps and not self._stopping:
                losses = self._train_step()
                progress.update()
                total = sum(losses.values())
                progress.set_postfix(loss=f"{total:.3f}", mIoU=f"{self.best_miou:.3f}")
                is_last = self.step == self.settings.max_steps
                if self.step % self.eval_every == 0 or is_last:
                    metrics = self._evaluate(losses)
        signal.signal(signal.SIGINT, previous)
        if self.fabric.is_global_zero:
            self._save("last")
            self._report(metrics, time.perf_counter() - start)
        return 130 if self._stopping else 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True  # at the end of the step, so that the state is a whole one

    def _train_step(self) -> dict[str, float]:
        """Take one optimizer step; return the loss terms."""
        self.model.train()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        share = self.settings.batch_size // world
        images, labels = self.data.batch(self.step, range(rank * share, (rank + 1) * share))
        for group in self._raw_optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        # Dropout is a function of seed, step and rank too: resuming needs no generator's state.
        torch.manual_seed((self.settings.seed * 1_000_003 + self.step) * world + rank)
        device = self.fabric.device
        output = self.wrapped(normalise(images, self.model.config, device))
        losses: dict[str, Tensor] = self.loss(output, torch.from_numpy(labels).to(device))
        total = torch.stack(list(losses.values())).sum()
        if not bool(total.isfinite()):
            raise ValueError(
                f"the loss is {total.item()} at step {self.step}; lower --learning-rate and go on "
                "from the last state with --resume"
            )
        self.fabric.backward(total)
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, self.step)
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def _evaluate(self, losses: dict[str, float]) -> SegmentationMetrics:
        """Log, evaluate the averaged weights on the validation split, and save."""
        self.evaluated.load_state_dict(self.average.weights)
        model = self.evaluated.to(self.fabric.device).eval()
        metrics = self.data.evaluate(partial(predict_scores, model)).compute()
        if self.fabric.is_global_zero:
            self._log(losses, metrics)
            if metrics.miou > self.best_miou:
                self.best_miou = metrics.miou
                self._save("best")
            self._save("last")
        return metrics

    def _log(self, losses: dict[str, float], metrics: SegmentationMetrics) -> None:
        path = self.out / "log.csv"
        row = {
            "step": self.step,
            "learning_rate": self.settings.learning_rate_at(self.step - 1),
            **losses,
            "miou": metrics.miou,
            "pixel_accuracy": metrics.pixel_accuracy,
        }
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})

    def _save(self, name: str) -> None:
        self.evaluated.load_state_dict(self.average.weights)
        metadata = {"step": str(self.step), "settings": json.dumps(asdict(self.settings))}
        save_checkpoint(self.evaluated, self.out / f"{name}.safetensors", self.half, metadata)
        if name == "last":
            save_state(
                self.out / STATE_NAME, self.settings, self.step, self.model,
                self._raw_optimizer, self.average, self.best_miou,
            )  # fmt: skip

    def _report(self, metrics: SegmentationMetrics | None, seconds: float) -> None:
        result = {
            "step": self.step,
            "miou": None if metrics is None else metrics.miou,
            "best_miou": self.best_miou,
            "seconds": round(seconds, 1),
            "checkpoint": str(self.out / "last.safetensors"),
        }
        if self.json:
            print(json.dumps(result))
            return
        if self._stopping:
            print(f"stopped at step {self.step}; go on with the same command and --resume")
        print(f"val mIoU {result['miou']}, best {self.best_miou:.4f}, {seconds:.0f} s")
        print(f"wrote {self.out}: last.safetensors, best.safetensors, {STATE_NAME}, log.csv")


def _open_data(settings: TrainingSettings, arguments: argparse.Namespace) -> TrainingData:
    config = find_variant(settings.model)
    if settings.dataset == "landcover":
        return LandCoverTraining(config, settings.seed)
    train, val = (
        open_folder(images, masks, arguments.classes, arguments.reduce_zero_label)
        for images, masks in (
            (arguments.images, arguments.masks),
            (arguments.val_images, arguments.val_masks),
        )
    )
    return FolderTraining(config, train, val, settings.batch_size, settings.seed)


def _take_backbone(model: SegViT, path: Path) -> None:
    """Copy the backbone of another trained SegViT, whatever its decode head.

    A Shrunk model keeps the positions it starts with, twice as loud: QU finds its places by them,
    a cascade hardly needs them, and beside trained patch embeddings (a spread of 2.3 on land
    cover) they would not be heard.
    """
    backbone = load_checkpoint(path).backbone.state_dict()
    own = {key: value.shape for key, value in model.backbone.state_dict().items()}
    if {key: value.shape for key, value in backbone.items()} != own:
        raise ValueError(
            f"the backbone of '{path}' does not fit '{model.config.name}' (width, depth or image "
            "size differ); give weights of a model with the same backbone"
        )
    if model.config.head == "shrunk":
        backbone["pos_embed"] = 2 * model.backbone.pos_embed.detach()
    model.backbone.load_state_dict(backbone)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return two groups: matrices decay, norms, biases and embeddings of one row do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    kept = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m segvit.train",
        description="Train a SegViT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", choices=list(VARIANTS), default="vit_t_landcover", metavar="NAME"
    )
    _add_data_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights to start from")
    start.add_argument(
        "--backbone", type=Path, metavar="FILE",
        help="start from the backbone of this SegViT, with a new decode head",
    )  # fmt: skip
    parser.add_argument("--max-steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16, help="over all devices")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--eval-every", type=int, default=250, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--devices", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--strategy", default="auto", help="auto or ddp")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed")
    parser.add_argument("--half", action="store_true", help="write the weights as float16")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last state")
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    for name in ("max_steps", "batch_size", "eval_every"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    given = [name for name in _FOLDER_PATHS if getattr(arguments, name) is not None]
    wanted = list(_FOLDER_PATHS) if arguments.dataset == "folder" else []
    if given != wanted or (arguments.reduce_zero_label and not wanted):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in _FOLDER_PATHS)
        parser.error(f"--dataset folder needs all of {options}, and no other takes them")
    return arguments


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=("landcover", "folder"), default="landcover")
    folder = parser.add_argument_group("with --dataset folder")
    for name, what in _FOLDER_PATHS.items():
        folder.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="PATH", help=what)
    folder.add_argument(
        "--reduce-zero-label", action="store_true", help="0 in the masks means ignored"
    )


if __name__ == "__main__":
    run_main(main)
