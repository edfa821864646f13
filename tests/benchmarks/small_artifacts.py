"""Artifact folders made by hand: a graph that labels pixels by their largest channel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from engines.kernels import Kernel, KernelTensor, layers_document
from export.manifest import BuiltTarget, Manifest, ModelInfo, Parity, TensorSpec, hash_file

SIZE = 16
CLASSES = ("red", "green", "blue")


def tensor(*dims: int, datatype: str = "Half") -> KernelTensor:
    return KernelTensor("t", dims, (1,) * len(dims), datatype)


# 1,000 values of 2 bytes read, 500 written; and a product of 3 x 3 weights over 256 pixels.
KERNELS = (
    Kernel("move", "kgen", (tensor(1000),), (), (tensor(500),), "", ("encoder/turn",)),
    Kernel("gemm", "gemm", (tensor(256, 3),), (tensor(3, 3),), (tensor(256, 3),), "",
           ("tail/mix",)),
)  # fmt: skip
PRODUCT_FLOPS = 2 * 256 * 3 * 3


def write_artifact(
    folder: Path,
    precision: str = "fp16",
    kernels: tuple[Kernel, ...] = KERNELS,
    classes: tuple[str, ...] = CLASSES,
    model: str = "tiny",
) -> Path:
    """Write an artifact for ONNX Runtime, with the layers of a TensorRT-RTX engine beside it."""
    folder.mkdir(parents=True)
    value, node = helper.make_tensor_value_info, helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], name="encoder/cast", to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], ["turned"], name="encoder/turn", perm=[0, 2, 1, 3]),
        node("Transpose", ["turned"], ["back"], name="encoder/back", perm=[0, 2, 1, 3]),
        node("MatMul", ["back", "weight"], ["mixed"], name="tail/mix"),
        node("ArgMax", ["mixed"], ["largest"], name="tail/argmax", axis=3, keepdims=0),
        node("Cast", ["largest"], ["labels"], name="tail/cast", to=TensorProto.UINT8),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 3], np.eye(3).flatten())
    graph = helper.make_graph(
        nodes, "g", [value("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [value("labels", TensorProto.UINT8, [1, SIZE, SIZE])], [weight],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    layers = layers_document(kernels, ["image", "labels"])
    (folder / "layers_trt-rtx.json").write_text(json.dumps(layers))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    labels = images.argmax(axis=3).astype(np.int32)
    labels[0, :4, :8] = (labels[0, :4, :8] + 1) % 3  # 32 pixels of 256 that the engine misses
    np.savez(folder / "golden.npz", images=images, labels=labels)
    (folder / "engine").write_bytes(b"never loaded")
    names = ("model.onnx", "layers_trt-rtx.json", "golden.npz", "engine")
    Manifest(
        version="0.1.0",
        model=ModelInfo(model, 9, "Apache-2.0", checkpoint_sha256="0" * 64),
        precision=precision,
        input=TensorSpec("image", "uint8", (1, SIZE, SIZE, 3)),
        outputs=(TensorSpec("labels", "uint8", (1, SIZE, SIZE)),),
        classes=classes,
        palette=((200, 40, 40), (40, 160, 60), (40, 80, 200)),
        files={name: hash_file(folder / name) for name in names},
        targets=(
            BuiltTarget("trt-rtx", "1.7", ("SM89",), "engine", layers="layers_trt-rtx.json"),
            BuiltTarget("ort", onnxruntime.__version__, (), "model.onnx"),
        ),
        parity=Parity(2, 0.9995, 0.58, 0.5801, 0.0004, 0.001, {"source": "2 tiles"}),
        command="python -m export.build --fp16",
    ).write(folder)
    return folder


def add_files(folder: Path, **contents: str) -> None:
    """Add files to an artifact and its manifest; `build_json` becomes `build.json`."""
    manifest = Manifest.read(folder)
    files = dict(manifest.files)
    for key, text in contents.items():
        name = key.replace("_", ".")
        (folder / name).write_text(text)
        files[name] = hash_file(folder / name)
    replace(manifest, files=files).write(folder)
