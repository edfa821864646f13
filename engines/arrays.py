"""The caller's arrays, seen where they lie and compared with what an engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, ManifestError, TensorSpec

Images = npt.NDArray[np.uint8]
Output = npt.NDArray[Any]


def view_array(array: object, name: str) -> npt.NDArray[Any]:
    """Return an array of this machine's memory as numpy sees it, without a copy.

    Taken is what offers the array interface, DLPack or a memoryview, such as a torch tensor
    on the CPU.

    Raises:
        ValueError: if it offers none of them, or lies on a GPU; `name` is what it is for.
    """
    if isinstance(array, np.ndarray | memoryview) or hasattr(array, "__array_interface__"):
        return np.asarray(array)
    if not hasattr(array, "__dlpack__"):
        raise ValueError(
            f"{name}: expected a uint8 array of RGB pixels, got {type(array).__name__}"
            if name == "images"
            else f"{name}: expected an array to write to, got {type(array).__name__}"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: expected memory that the CPU reads, got a {type(array).__name__} that numpy "
            f"cannot view ({error}); copy it to the CPU"
        ) from error


def check_images(images: Any, spec: TensorSpec, batch: tuple[int, int, int]) -> None:
    """Accept an array of images that an engine's input takes.

    Raises:
        ValueError: if type, shape or number differ.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images: expected a uint8 array of RGB pixels, got {images.dtype}")
    expected = tuple(spec.shape[1:])
    if len(images.shape) != 4 or tuple(images.shape[1:]) != expected:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"images: expected shape (B, {wanted}), got {tuple(images.shape)}")
    smallest, _, largest = batch
    count = images.shape[0]
    if not smallest <= count <= largest:
        wanted = str(smallest) if smallest == largest else f"{smallest} to {largest}"
        raise ValueError(f"images: expected a batch of {wanted}, got {count}")


def check_output(out: Any, spec: TensorSpec, count: int) -> None:
    """Accept an array that an engine's output for `count` images can be written to as it is.

    Raises:
        ValueError: if type or shape differ, or it is read-only or not contiguous.
    """
    dtype, shape = np.dtype(spec.dtype), batch_shape(spec, count)
    if out.dtype != dtype or tuple(out.shape) != shape:
        raise ValueError(
            f"out: expected {dtype} of shape {shape}, got {out.dtype} of shape {tuple(out.shape)}"
        )
    if not isinstance(out, np.ndarray):
        return
    if not out.flags.writeable:
        raise ValueError("out: expected memory that can be written to, got a read-only array")
    if not out.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array, got strides {out.strides}; copy later")


def check_tensors(path: Path, found: Sequence[TensorSpec], manifest: Manifest) -> None:
    """Accept a model whose input and outputs are the manifest's, by which memory is sized.

    Raises:
        ManifestError: if they are not.
    """
    expected = (manifest.input, *manifest.outputs)
    fixed = {spec.shape[0] for spec in found if isinstance(spec.shape[0], int)}
    if [_essence(spec) for spec in found] == [_essence(spec) for spec in expected] and all(
        set(manifest.batch) == {size} for size in fixed
    ):
        return
    got, wanted = (", ".join(map(_describe, specs)) for specs in (found, expected))
    raise ManifestError(
        f"'{path}' has the tensors {got}, its manifest lists {wanted} for batches of "
        f"{':'.join(map(str, manifest.batch))}; build the artifact again"
    )


def _essence(spec: TensorSpec) -> tuple[str, str, tuple[int | str, ...]]:
    return spec.name, spec.dtype, tuple(spec.shape[1:])


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})"


def batch_shape(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """Return a tensor's shape for so many images; nothing else is dynamic."""
    return count, *(int(size) for size in spec.shape[1:])


class Staging:
    """Memory that images are copied to where a library cannot read them in place.

    It is kept for the next call. ONNX Runtime and OpenVINO need contiguous images, and OpenVINO
    refuses read-only ones.
    """

    def __init__(self) -> None:
        self._memory: Images | None = None

    def place(self, images: Images) -> Images:
        """Return the images themselves, or a copy that lasts until the next call."""
        if images.flags.c_contiguous and images.flags.writeable:
            return images
        if self._memory is None or len(self._memory) < len(images):
            self._memory = np.empty(images.shape, np.uint8)
        staged = self._memory[: len(images)]
        np.copyto(staged, images)
        return staged
