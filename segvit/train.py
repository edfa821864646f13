"""`python -m segvit.train`: train a SegViT, resumably, on one device or many."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from segvit.atm import set_dropout
from segvit.atomic import make_folder
from segvit.checkpoint import load_checkpoint, save_checkpoint
from segvit.config import find_variant
from segvit.datasets.folder import open_folder
from segvit.datasets.named import open_dataset
from segvit.datasets.training_data import (
    Batch,
    FolderTraining,
    LandCoverTraining,
    TrainingData,
    iterate_batches,
)
from segvit.datasets.transforms import blank_padding
from segvit.evaluation import count_samples
from segvit.loss import ATMLoss
from segvit.metrics import SegmentationMetrics
from segvit.model import SegViT, build_model
from segvit.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from segvit.prediction import normalise, predict_scores
from segvit.recipes import TrainingSettings
from segvit.train_options import parse_arguments
from segvit.training_state import TrainingLog, WeightAverage, load_state, restore, save_state

STATE_NAME = "state.pt"


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate one model."""
    settings, arguments = parse_arguments(argv)
    by_fabric_run = "LT_CLI_USED" in os.environ  # has read devices, and launched the processes
    fabric = Fabric(
        accelerator=arguments.device,
        devices=arguments.devices or ("auto" if by_fabric_run else 1),
        num_nodes=arguments.num_nodes,
        strategy=arguments.strategy,
        precision=arguments.precision,
    )
    # Before other processes start, so that an error is told once.
    _check_shares(settings.batch_size, fabric.world_size, arguments.accumulate)
    data = _open_data(settings, arguments)
    if not by_fabric_run:
        fabric.launch()
    return TrainingRun(fabric, settings, arguments, data).train()


class TrainingRun:
    """One run in one folder: weights, their average, the optimizer and the log."""

    def __init__(
        self,
        fabric: Fabric,
        settings: TrainingSettings,
        arguments: argparse.Namespace,
        data: TrainingData,
    ) -> None:
        self.fabric, self.settings, self.data = fabric, settings, data
        self.options = arguments
        self.out: Path = arguments.out
        torch.manual_seed(settings.seed)
        self.model = _start_model(data, arguments)
        set_dropout(self.model.decode_head, settings.dropout)
        self.model.backbone.checkpoint_activations = arguments.checkpoint_activations
        self.evaluated = build_model(data.config)
        self._raw_optimizer = build_optimizer(self.model, settings)
        self.loss = ATMLoss(data.config.num_classes).to(fabric.device)
        self.wrapped, self.optimizer = fabric.setup(self.model, self._raw_optimizer)
        self.average = WeightAverage(self.model, settings.ema_decay)
        self.log = TrainingLog(self.out / "log.csv")
        self.step, self.best_miou = 0, 0.0
        if arguments.resume:
            state = load_state(self.out / STATE_NAME, settings)
            self.step, self.best_miou = restore(
                state, self.model, self._raw_optimizer, self.average
            )
        elif (self.out / STATE_NAME).exists():
            raise ValueError(
                f"'{self.out}' already holds a run; go on with --resume, or give another --out"
            )
        self._interrupted, self._stopping = False, False

    def train(self) -> int:
        """Train to the last step; return the exit code, 130 after Ctrl-C."""
        if self.fabric.is_global_zero:
            make_folder(self.out)
            self.log.keep_until(self.step)
        start = time.perf_counter()
        with self._hearing_interrupts():
            metrics = self._take_steps()
            if self.fabric.is_global_zero:
                self._save("last")
                self._report(metrics, time.perf_counter() - start)
            self.fabric.barrier()
        # The launcher kills all processes, saving or not, once one that it started ends with 130.
        return 130 if self._stopping and self.fabric.is_global_zero else 0

    def _take_steps(self) -> SegmentationMetrics | None:
        """Take all steps that are left, or those until Ctrl-C; return the last evaluation."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        share = self.settings.batch_size // world
        steps = range(self.step, self.settings.max_steps)
        indices = range(rank * share, (rank + 1) * share)
        progress = tqdm(
            total=self.settings.max_steps, initial=self.step, desc="train", unit="step",
            disable=self.options.json or not self.fabric.is_global_zero,
        )  # fmt: skip
        metrics: SegmentationMetrics | None = None
        batches = iterate_batches(self.data, steps, indices, self.options.workers)
        with progress, closing(batches):
            for batch in batches:
                losses = self._train_step(batch)
                progress.update()
                total = sum(losses.values())
                progress.set_postfix(loss=f"{total:.3f}", mIoU=f"{self.best_miou:.3f}")
                if self._is_due(self.settings.eval_every):
                    metrics = self._evaluate(losses)
                elif self._is_due(self.options.log_every):
                    self._log(losses, None)
                if self._stopping:
                    break
        return metrics

    @contextmanager
    def _hearing_interrupts(self) -> Iterator[None]:
        """Let Ctrl-C end the run after its step, whatever ends the block."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True  # the step goes on to its end, so that the state is a whole one

    def _is_due(self, every: int) -> bool:
        is_last = self.step == self.settings.max_steps
        return every > 0 and (self.step % every == 0 or is_last)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """Take one optimizer step; return the loss terms of the global batch."""
        self.model.train()
        set_learning_rate(self._raw_optimizer, self.settings, self.step)
        names, terms = self._add_gradients(batch)
        # One reduction for both: all processes stop after the same step.
        interrupted = terms.new_tensor([float(self._interrupted)])
        *values, stopping = self._add_up(torch.cat([terms, interrupted])).tolist()
        if not math.isfinite(sum(values)):
            raise ValueError(
                f"the loss is {sum(values)} at step {self.step}; lower --learning-rate and go on "
                "from the last state with --resume"
            )
        self._stopping = stopping > 0
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, self.step)
        self.step += 1
        return dict(zip(names, values, strict=True))

    def _add_gradients(self, batch: Batch) -> tuple[list[str], Tensor]:
        """Go forward and backward through this process's share of a batch, part by part.

        Returns:
            The names of the loss terms, and their sums over this process's images: the terms of
            the global batch once those of all processes are added up.
        """
        fabric, count = self.fabric, self.options.accumulate
        rank, world = fabric.global_rank, fabric.world_size
        seed = self.settings.seed * 1_000_003 + self.step
        pairs = self._add_up(self.loss.count_pairs(batch.labels.to(fabric.device, torch.int64)))
        terms = torch.zeros((), device=fabric.device)
        for index, part in enumerate(batch.split(count)):
            # Dropout is a function of seed, step and part: resuming needs no generator's state.
            torch.manual_seed((seed * world + rank) * count + index)
            is_last = index == count - 1
            with fabric.no_backward_sync(self.wrapped, enabled=world > 1 and not is_last):
                images = normalise(part.images.numpy(), self.model.config, fabric.device)
                output = self.wrapped(blank_padding(images, part.sizes.to(fabric.device)))
                labels = part.labels.to(fabric.device, torch.int64)
                losses: dict[str, Tensor] = self.loss(output, labels, pairs)
                values = torch.stack(list(losses.values()))
                # Gradients are averaged over processes, and here they are to be added up.
                fabric.backward(values.sum() * world)
            terms = terms + values.detach()
        return list(losses), terms

    def _add_up(self, values: Tensor) -> Tensor:
        """Return the sum over processes."""
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _evaluate(self, losses: dict[str, float]) -> SegmentationMetrics:
        """Log, evaluate the averaged weights on the validation split, and save.

        Every process counts its share of the samples; integers add up exactly.
        """
        self.evaluated.load_state_dict(self.average.weights)
        model = self.evaluated.to(self.fabric.device).eval()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        validation = self.data.validation
        indices = tqdm(
            range(rank, len(validation), world), desc="evaluate", leave=False,
            disable=self.options.json or rank > 0,
        )  # fmt: skip
        matrix = count_samples(partial(predict_scores, model), validation, indices)
        counts = torch.from_numpy(matrix.counts).to(self.fabric.device)
        matrix.counts = self._add_up(counts).cpu().numpy()
        metrics = matrix.compute()
        is_best = metrics.miou > self.best_miou
        if is_best:
            self.best_miou = metrics.miou
        self._log(losses, metrics)
        if self.fabric.is_global_zero:
            if is_best:
                self._save("best")
            self._save("last")
        return metrics

    def _log(self, losses: dict[str, float], metrics: SegmentationMetrics | None) -> None:
        if not self.fabric.is_global_zero:
            return
        self.log.write(
            {
                "step": self.step,
                "learning_rate": learning_rate_at(self.settings, self.step - 1),
                **losses,
                "miou": None if metrics is None else metrics.miou,
                "pixel_accuracy": None if metrics is None else metrics.pixel_accuracy,
            }
        )

    def _save(self, name: str) -> None:
        self.evaluated.load_state_dict(self.average.weights)
        metadata = {"step": str(self.step), "settings": json.dumps(asdict(self.settings))}
        path = self.out / f"{name}.safetensors"
        save_checkpoint(self.evaluated, path, self.options.half, metadata)
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
        if self.options.json:
            print(json.dumps(result))
            return
        if self._stopping:
            print(f"stopped at step {self.step}; go on with the same command and --resume")
        print(f"val mIoU {result['miou']}, best {self.best_miou:.4f}, {seconds:.0f} s")
        names = ("last.safetensors", "best.safetensors", STATE_NAME, "log.csv")
        written = ", ".join(name for name in names if (self.out / name).exists())
        print(f"wrote {self.out}: {written}")


def _check_shares(batch_size: int, devices: int, accumulate: int) -> None:
    """Refuse a batch that cannot be shared evenly."""
    parts = devices * accumulate
    if batch_size % parts:
        sharers = f"{devices} device{'s' if devices > 1 else ''}"
        if accumulate > 1:
            sharers += f" in {accumulate} micro-batches each"
        raise ValueError(
            f"batch size {batch_size} cannot be shared by {sharers}; give a multiple of {parts}"
        )


def _open_data(settings: TrainingSettings, arguments: argparse.Namespace) -> TrainingData:
    config = find_variant(settings.model)
    if settings.dataset == "landcover":
        return LandCoverTraining(config, settings.seed)
    if settings.dataset == "folder":
        train, val = (
            open_folder(images, masks, arguments.classes, arguments.reduce_zero_label)
            for images, masks in (
                (arguments.images, arguments.masks),
                (arguments.val_images, arguments.val_masks),
            )
        )
    else:
        splits = ("train", "val")
        train, val = (open_dataset(settings.dataset, arguments.data, split) for split in splits)
    return FolderTraining(config, train, val, settings.batch_size, settings.seed, settings.resize)


def _start_model(data: TrainingData, arguments: argparse.Namespace) -> SegViT:
    """Return the model with the weights that the run starts from."""
    checkpoint = arguments.checkpoint
    model = load_checkpoint(checkpoint, data.config) if checkpoint else build_model(data.config)
    if arguments.backbone:
        _take_backbone(model, arguments.backbone)
    if model.config.num_classes != data.config.num_classes:
        raise ValueError(
            f"checkpoint '{checkpoint}' has {model.config.num_classes} classes, the data "
            f"{data.config.num_classes}; take its encoder alone with --backbone"
        )
    return model


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
    if model.config.shrink_block is not None:
        backbone["pos_embed"] = 2 * model.backbone.pos_embed.detach()
    model.backbone.load_state_dict(backbone)


if __name__ == "__main__":
    run_main(main)
