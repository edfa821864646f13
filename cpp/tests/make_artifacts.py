"""Write the small artifacts that the C++ tests open: sums of channels, whose labels are exact.

A pixel's label is the class with the largest sum `Σ_c pixel[c] · weight(c, k) + k` of whole
numbers, so NumPy, OpenVINO and a line of C++ agree on every one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.engine_list import EngineList
from export.manifest import BuiltTarget, Manifest, ModelInfo, TensorSpec, hash_file
from segvit.atomic import replace_folder
from segvit.cli import run_main

HEIGHT, WIDTH = 24, 40
_EXAMPLE = """example:
  python cpp/tests/make_artifacts.py --out build/cpp/test-artifacts
"""


@dataclass(frozen=True)
class Variant:
    """What sets one artifact apart; `batch` is (smallest, typical, largest).

    With `added`, OpenVINO stands in the list of engines that came later.
    """

    name: str
    batch: tuple[int, int, int] = (1, 1, 1)
    classes: int = 8
    output: str = "labels"
    external: bool = False
    added: bool = False
    arg_max: str = "ArgMax"


VARIANTS = (
    Variant("single"),
    Variant("range", batch=(1, 2, 4)),
    Variant("four", batch=(4, 4, 4)),
    Variant("wide", classes=300),
    Variant("scores", output="scores"),
    Variant("external", external=True),
    Variant("added", added=True),
    Variant("unknown", arg_max="NoSuchOperator"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the artifacts below the folder that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for them")
    out: Path = parser.parse_args(argv).out
    for variant in VARIANTS:
        with replace_folder(out / variant.name) as folder:
            write_artifact(folder, variant)
    print(f"wrote {len(VARIANTS)} artifacts to {out}")
    return 0


def write_artifact(folder: Path, variant: Variant) -> None:
    """Write model, golden images and manifest."""
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    model = make_model(variant)
    onnx.save(model, folder / "model.onnx", **(options if variant.external else {}))
    images = np.random.default_rng(7).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
    labels = (images @ weights(variant.classes) + np.arange(variant.classes)).argmax(-1)
    np.savez(folder / "golden.npz", images=images, labels=labels.astype(np.int32))
    source, result = model.graph.input[0], model.graph.output[0]
    targets = (BuiltTarget("openvino", version("openvino"), (), "model.onnx"),)
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    path = Manifest(
        version="0.1.0",
        model=ModelInfo("sums", 3 * variant.classes, "Apache-2.0", random_weights=False),
        precision="fp32",
        input=describe(source),
        outputs=(describe(result),),
        classes=tuple(f"class {k}" for k in range(variant.classes)),
        palette=tuple((k % 256, 2 * k % 256, 255 - k % 256) for k in range(variant.classes)),
        batch=variant.batch,
        files=files,
        targets=() if variant.added else targets,
    ).write(folder)
    if variant.added:
        EngineList(hash_file(path), variant.batch, targets=targets).write(folder, files)


def make_model(variant: Variant) -> onnx.ModelProto:
    """Return the graph `image` to `labels` or `scores`."""
    smallest, _, largest = variant.batch
    batch = smallest if smallest == largest else "batch"
    kind = TensorProto.INT32 if variant.classes > 256 else TensorProto.UINT8
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weights"], ["sums"]),
        helper.make_node("Add", ["sums", "order"], ["by_pixel"]),
    ]
    shape = [batch, HEIGHT, WIDTH]
    if variant.output == "scores":
        kind, shape = TensorProto.FLOAT, [batch, variant.classes, HEIGHT, WIDTH]
        nodes += [helper.make_node("Transpose", ["by_pixel"], ["scores"], perm=[0, 3, 1, 2])]
    else:
        nodes += [
            helper.make_node(variant.arg_max, ["by_pixel"], ["index"], axis=3, keepdims=0),
            helper.make_node("Cast", ["index"], ["labels"], to=kind),
        ]
    constants = {"weights": weights(variant.classes), "order": np.arange(variant.classes)}
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info(variant.output, kind, shape)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def weights(classes: int) -> np.ndarray:
    """Return whole numbers of -8 to 8, (3, classes); artifacts.hpp has the same."""
    channel, k = np.arange(3)[:, None], np.arange(classes)
    return (5 * channel + 3 * k * k + 7) % 17 - 8


def describe(value: onnx.ValueInfoProto) -> TensorSpec:
    """Return a graph's input or output as a manifest has it."""
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)


if __name__ == "__main__":
    run_main(main)
