"""ONNX Runtime's and ModelOpt's ONNX quantisers, called as each asks to be for TensorRT."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

_WORKER = Path(__file__).with_name("modelopt_worker.py")
_MODELOPT_PACKAGES = ("nvidia-modelopt", "onnx", "onnxruntime", "torch")
_PROBE = """
import json
import sys
from importlib.metadata import version
import modelopt.onnx.quantization
sys.stdout.write(json.dumps({name: version(name) for name in %r}))
"""
# TensorRT's parsers refuse zero points and quantised biases.
_ORT_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": False,
}


@dataclass(frozen=True)
class ModelOpt:
    """A Python that has ModelOpt, and the versions of what is in it."""

    python: Path
    versions: dict[str, str]


class _Reader:
    """Images one at a time, in the form that ONNX Runtime's calibrators ask for."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._rest = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next image as the graph's input, None after the last."""
        image = next(self._rest, None)
        return None if image is None else {"image": image[None]}


def quantise_with_ort(
    onnx_path: Path, images: NDArray[np.uint8], out: Path, nodes: Sequence[str] | None
) -> None:
    """Write what `quantize_static` makes of a float file.

    Graph optimisation before it stays off: it would turn every linear layer into reshapes around a
    Gemm, which TensorRT fuses less of.

    Args:
        images: uint8 `(n, H, W, 3)` to calibrate on.
        nodes: names of those to quantise; None takes all that the quantiser knows.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _silence_warnings():
        quantize_static(
            onnx_path,
            out,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=None if nodes is None else list(nodes),
            extra_options=dict(_ORT_OPTIONS),
        )


@contextmanager
def _silence_warnings() -> Iterator[None]:
    """Keep a quantiser's line a LayerNorm off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def find_modelopt(python: Path) -> ModelOpt:
    """Return the ModelOpt of another Python.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no Python with ModelOpt's ONNX quantiser.
    """
    if not python.is_file():
        raise FileNotFoundError(2, "no such Python", str(python))
    packages = _PROBE % (_MODELOPT_PACKAGES,)
    probe = subprocess.run([python, "-I", "-c", packages], capture_output=True, text=True)
    try:
        return ModelOpt(python.absolute(), json.loads(probe.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        raise ValueError(
            f"'{python}' does not run ModelOpt's ONNX quantiser: {_last_line(probe.stderr)}; "
            "docs/quantization.md says how to make an environment for it"
        ) from None


def quantise_with_modelopt(
    modelopt: ModelOpt,
    onnx_path: Path,
    images: Path,
    out: Path,
    mode: str,
    nodes: Sequence[str] | None,
) -> None:
    """Write what ModelOpt makes of a float file, in a process of its own.

    Args:
        images: an .npz file that holds uint8 `(n, H, W, 3)` as `image`.
        mode: `int8` or `fp8`.
        nodes: names of those to quantise; None takes ModelOpt's choice.

    Raises:
        RuntimeError: if it fails, with the last line it said.
    """
    # ModelOpt takes regular expressions, and matches them from the start of a name only.
    patterns = None if nodes is None else [f"{re.escape(name)}$" for name in nodes]
    job = {
        "onnx": str(onnx_path),
        "images": str(images),
        "out": str(out),
        "mode": mode,
        "nodes": patterns,
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        command = [str(part) for part in (modelopt.python, "-I", _WORKER, path)]
        # It runs where its intermediate files, if any stay, are thrown away.
        finished = subprocess.run(
            command, capture_output=True, text=True, errors="replace", cwd=folder
        )
    if finished.returncode or not out.is_file():
        raise RuntimeError(f"ModelOpt failed: {_last_line(finished.stderr)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
