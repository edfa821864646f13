"""Ranges of a float graph's tensors on real images, measured on ONNX Runtime's CPU provider.

Shapes: `n` images, `B` batch, `H, W` pixels, `C` channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from tqdm import tqdm

from calibration.observers import PERCENTILE, Method, RangeObserver

Images = NDArray[np.uint8]

MIN_IMAGES = 32
# Pixels of photographs reach far beyond; images normalised before they became bytes do not.
_NORMALISED_LARGEST = 8
_PHOTOGRAPH_MEANS = (10, 245)
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Collected:
    """Clipping limits by tensor, and largest magnitudes `(C,)` of those asked by channel."""

    limits: dict[str, float]
    channel_amax: dict[str, NDArray[np.float32]]
    images: int


@dataclass(frozen=True)
class Observed:
    """Observers by tensor, which any method's limits can be read from, and images seen."""

    observers: dict[str, RangeObserver]
    images: int


def collect_ranges(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[Images],
    method: Method,
    largest: float,
    progress: bool,
    channel_tensors: Sequence[str] = (),
    percentile: float = PERCENTILE,
    total: int | None = None,
) -> Collected:
    """Return the clipping limits of a float graph's tensors.

    Args:
        model: FP32 or FP16, one uint8 input `(B, H, W, 3)`; left as it is.
        tensors: names of floating-point tensors that nodes give.
        batches: uint8 images `(n, H, W, 3)`, any n; read once, one at a time.
        method: see `RangeObserver.limit`, as for `largest` and `percentile`.
        largest: the largest quantised magnitude, such as 127.
        progress: show a bar.
        channel_tensors: those whose largest magnitudes by channel are wanted too.
        percentile: of the method of that name, in percent.
        total: images to come, for the bar.

    Raises:
        ValueError: as `observe_tensors` and `RangeObserver.limit` do.
    """
    observed = observe_tensors(model, tensors, batches, progress, channel_tensors, total)
    observers = observed.observers
    return Collected(
        {name: observers[name].limit(method, largest, percentile) for name in observers},
        {name: observers[name].channel_amax for name in dict.fromkeys(channel_tensors)},
        observed.images,
    )


def observe_tensors(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[Images],
    progress: bool,
    channel_tensors: Sequence[str] = (),
    total: int | None = None,
) -> Observed:
    """Return observers of a float graph's tensors that have seen every image.

    Images run in the graph's own batch, or one by one where that is dynamic, so memory follows
    the graph and not `batches`. A last batch that is not full is filled up with repetitions, whose
    values are left out.

    Raises:
        ValueError: if there are no images or they do not fit the input, a tensor is not in the
            graph or no float, its values are NaN or infinite, or the graph does not run.
    """
    channels = set(channel_tensors)
    names = list(dict.fromkeys((*tensors, *channel_tensors)))
    if not names:
        raise ValueError("calibration: expected tensors to observe, got none")
    shape = _input_shape(model)
    observers = {name: RangeObserver(name, name in channels) for name in names}
    session = _open_session(expose_tensors(model, names))
    images = 0
    with tqdm(total=total, desc="calibrate", unit="image", disable=not progress) as bar:
        for chunk, real in _rebatch(batches, shape):
            _observe(session, chunk, real, images, observers)
            images += real
            bar.update(real)
    if images == 0:
        raise ValueError("calibration images: expected at least one, got none; see --images")
    return Observed(observers, images)


def expose_tensors(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy of the graph that gives these tensors and computes nothing beyond them.

    Raises:
        ValueError: if no node gives one of them, or it is no FP32 or FP16 tensor.
    """
    exposed = model.clone()
    values = {value.name: value for node in exposed.graph for value in node.outputs}
    for name in names:
        if name not in values:
            raise ValueError(
                f"tensor '{name}' is given by no node of the graph; the tensors to calibrate must "
                "be chosen on the very graph that runs"
            )
        if values[name].dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            raise ValueError(
                f"tensor '{name}': expected FLOAT or FLOAT16, got {values[name].dtype}; calibrate "
                "the FP32 graph"
            )
    exposed.graph.outputs.clear()
    exposed.graph.outputs.extend(values[name] for name in names)
    RemoveUnusedNodesPass()(exposed)
    return exposed


def check_calibration_images(images: Images) -> tuple[str, ...]:
    """Return what speaks against calibrating on these images `(n, H, W, 3)`, a sentence each.

    Raises:
        ValueError: if there are none, each is of one colour, or they are no uint8 RGB images.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"calibration images: expected uint8 (n, H, W, 3), got {images.dtype} {images.shape}; "
            "give RGB pixels as decoded, the graph normalises them"
        )
    count = len(images)
    if count == 0:
        raise ValueError("calibration images: expected at least one, got none; see --images")
    flat = (images.min(axis=(1, 2)) == images.max(axis=(1, 2))).all(axis=1)  # (n,)
    if flat.all():
        raise ValueError(
            f"calibration images: expected photographs, got {count} of one colour each, on which "
            "no tensor has its usual range; see --images"
        )
    warnings = []
    if count < MIN_IMAGES:
        warnings.append(
            f"{count} calibration images are few, so ranges may be too narrow; give {MIN_IMAGES} "
            "or more."
        )
    if flat.any():
        warnings.append(
            f"{flat.sum()} of {count} calibration images are of one colour (first: number "
            f"{flat.argmax() + 1})."
        )
    if count > 1 and all(np.array_equal(image, images[0]) for image in images[1:]):
        warnings.append(f"All {count} calibration images are the same.")
    return (*warnings, *_check_values(images))


def _check_values(images: Images) -> tuple[str, ...]:
    largest, mean = int(images.max()), float(images.mean())
    if largest <= _NORMALISED_LARGEST:
        return (
            f"Calibration pixels lie within 0 and {largest}: they look normalised already; give "
            "pixels of 0 to 255, the graph normalises them.",
        )
    low, high = _PHOTOGRAPH_MEANS
    if not low <= mean <= high:
        return (
            f"The mean of the calibration pixels is {mean:.1f}, that of photographs lies between "
            f"{low} and {high}.",
        )
    return ()


def _input_shape(model: ir.Model) -> tuple[int | None, int | None, int | None, int]:
    """Return the input's (B, H, W, 3), None where a dimension is dynamic."""
    inputs = model.graph.inputs
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or inputs[0].dtype != ir.DataType.UINT8:
        got = ", ".join(f"'{value.name}' {value.dtype} {value.shape}" for value in inputs)
        raise ValueError(
            f"the graph to calibrate: expected one input UINT8 (B, H, W, 3), got {got or 'none'}; "
            "give one that python -m export.build exported"
        )
    batch, height, width, _ = (size if isinstance(size, int) else None for size in shape)
    return batch, height, width, 3


def _rebatch(
    batches: Iterable[Images], shape: tuple[int | None, int | None, int | None, int]
) -> Iterator[tuple[Images, int]]:
    """Yield batches `(B, H, W, 3)` of the graph's size and how many of their images are real."""
    batch = shape[0] or 1
    waiting: list[Images] = []
    for images in batches:
        _check_fit(images, shape)
        for image in images:
            waiting.append(image)
            if len(waiting) == batch:
                yield np.stack(waiting), batch
                waiting = []
    if waiting:
        real = len(waiting)
        yield np.stack([waiting[index % real] for index in range(batch)]), real


def _check_fit(images: Images, shape: tuple[int | None, int | None, int | None, int]) -> None:
    fits = images.ndim == 4 and all(
        expected is None or size == expected
        for size, expected in zip(images.shape[1:], shape[1:], strict=True)
    )
    if images.dtype != np.uint8 or not fits:
        sizes = ", ".join(str(size or "any") for size in shape[1:])
        raise ValueError(
            f"calibration images: expected uint8 (n, {sizes}), got {images.dtype} {images.shape}; "
            "resize them to the graph's input"
        )


def _open_session(model: ir.Model) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # What one image needs goes back before the next; an arena would keep its high-water mark.
    options.enable_cpu_mem_arena = False
    with TemporaryDirectory() as folder:
        path = Path(folder) / "exposed.onnx"
        # Beside the graph, so that no size limit of the format stands in the way.
        ir.save(model, path, external_data="exposed.data")
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ValueError(
                f"the graph to calibrate does not load on ONNX Runtime: {error}"
            ) from error


def _observe(
    session: Any, chunk: Images, real: int, before: int, observers: dict[str, RangeObserver]
) -> None:
    """Run one batch `(B, H, W, 3)`, show each observer its tensor and let go of that."""
    outputs = session.run(list(observers), {session.get_inputs()[0].name: chunk})
    outputs.reverse()
    for observer in observers.values():
        values = outputs.pop()
        if real < len(chunk) and values.ndim and len(values) == len(chunk):
            values = values[:real]
        try:
            observer.update(values)
        except ValueError as error:
            images = f"{before + 1}" if real == 1 else f"{before + 1} to {before + real}"
            raise ValueError(f"calibration image {images}: {error}") from error
