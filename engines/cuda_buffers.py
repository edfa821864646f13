"""Memory for one batch, on the GPU and pinned on the host, made once for the largest."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import batch_shape
from engines.cuda_resources import CudaResources
from export.manifest import TensorSpec


class BatchBuffers:
    """The memory of an engine's input and output; `input` and `output` are the GPU's addresses.

    Args:
        cuda: what makes and later frees it.
        input: of the images, `(B, H, W, 3)`.
        output: of the labels or scores, `(B, …)`.
        largest: images a batch may have.

    Raises:
        GpuOutOfMemoryError: if the GPU has no room.
    """

    def __init__(
        self, cuda: CudaResources, input: TensorSpec, output: TensorSpec, largest: int
    ) -> None:
        self._input, self._output = input, output
        counts = [largest * count_bytes(spec) for spec in (input, output)]
        names = [f"'{spec.name}' of {largest} images" for spec in (input, output)]
        self.input, self.output = map(cuda.allocate, counts, names)
        self._host_input, self._host_output = map(cuda.allocate_pinned, counts, names)

    def host_input(self, count: int) -> npt.NDArray[np.uint8]:
        """Return pinned memory for `count` images."""
        return _view_as(self._host_input, self._input, count)

    def host_output(self, count: int) -> npt.NDArray[Any]:
        """Return pinned memory for the output of `count` images."""
        return _view_as(self._host_output, self._output, count)

    def make_output(self, count: int) -> npt.NDArray[Any]:
        """Return new memory of the host for the output of `count` images."""
        return np.empty(batch_shape(self._output, count), self._output.dtype)


def count_bytes(spec: TensorSpec) -> int:
    """Return the bytes that a tensor has an image."""
    return prod(batch_shape(spec, 1)) * np.dtype(spec.dtype).itemsize


def _view_as(memory: npt.NDArray[np.uint8], spec: TensorSpec, count: int) -> npt.NDArray[Any]:
    part = memory[: count * count_bytes(spec)].view(spec.dtype)
    return part.reshape(batch_shape(spec, count))
