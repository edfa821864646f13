"""Small segmenters as ONNX files, in the project's graph contract, made without torch.

Shapes: `B` batch, `N` tokens, `Q` queries (one a class), `C` channels, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.manifest import BuiltTarget, Manifest, ModelInfo, TensorSpec, hash_file

PATCH = 16
PIXELS = PATCH * PATCH * 3
FLOAT_TYPES = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
CLASSES = (
    ("water", (28, 92, 168)),
    ("tree cover", (20, 110, 50)),
    ("shrub and savanna", (158, 160, 62)),
    ("grass", (176, 208, 120)),
    ("crop", (236, 150, 60)),
    ("barren", (214, 190, 150)),
    ("snow and ice", (240, 245, 255)),
    ("built up", (200, 60, 60)),
)
Writer = Callable[..., Path]


@dataclass
class GraphWriter:
    """Collects nodes and initializers; floats are written in `float_type` unless told otherwise."""

    float_type: int
    dim: int
    heads: int
    lead: int = 1  # the batch as reshapes need it, -1 when it is dynamic
    float_sums: bool = False  # ask attention's sums in FP32, by casts around its MatMuls
    between: str = ""  # an operator between attention's softmax and P·V
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def floats(self, name: str, values: npt.NDArray[Any], float_type: int | None = None) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(float_type or self.float_type)
        self.initializers.append(numpy_helper.from_array(values.astype(dtype), name))
        return name

    def random(self, name: str, *shape: int, float_type: int | None = None) -> str:
        values = self.rng.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)
        return self.floats(name, values, float_type)

    def integers(self, name: str, values: list[int]) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def reshape(self, x: str, name: str, *sizes: int) -> str:
        shape = self.integers(f"{name}/shape", [self.lead, *sizes])
        return self.add("Reshape", [x, shape], name)

    def norm(self, x: str, name: str) -> str:
        scale = self.floats(f"{name}/scale", np.ones(self.dim))
        inputs = [x, scale, self.random(f"{name}/shift", self.dim)]
        return self.add("LayerNormalization", inputs, name, axis=-1, epsilon=1e-6)

    def linear(self, x: str, name: str, columns: int, rows: int | None = None) -> str:
        y = self.product(x, name, columns, rows)
        return self.add("Add", [y, self.random(f"{name}/bias", columns)], f"{name}/add")

    def product(self, x: str, name: str, columns: int, rows: int | None = None) -> str:
        weight = self.random(f"{name}/weight", rows or self.dim, columns)
        return self.add("MatMul", [x, weight], name)

    def attend(
        self, query: str, memory: str, name: str, queries: int, tokens: int, with_bias: bool = False
    ) -> tuple[str, str]:
        """Return the projected context and the logits before the softmax."""
        project = self.linear if with_bias else self.product
        size = self.dim // self.heads
        views = []
        for letter, source, count in zip("qkv", (query, memory, memory), (queries, tokens, tokens),
                                         strict=True):  # fmt: skip
            y = project(source, f"{name}/{letter}", self.dim)
            y = self.reshape(y, f"{name}/{letter}/split", count, self.heads, size)
            perm = [0, 2, 3, 1] if letter == "k" else [0, 2, 1, 3]
            views.append(self.add("Transpose", [y], f"{name}/{letter}/heads", perm=perm))
        logits = self.multiply(views[0], views[1], f"{name}/logits")
        weights = self.add("Softmax", [logits], f"{name}/softmax", axis=-1)
        if self.between:
            weights = self.add(self.between, [weights], f"{name}/between")
        y = self.multiply(weights, views[2], f"{name}/context")
        y = self.add("Transpose", [y], f"{name}/join", perm=[0, 2, 1, 3])
        y = self.reshape(y, f"{name}/flatten", queries, self.dim)
        return self.linear(y, f"{name}/proj", self.dim), logits

    def multiply(self, left: str, right: str, name: str) -> str:
        """Return the product of two values of an attention, summed as asked."""
        if not self.float_sums:
            return self.add("MatMul", [left, right], name)
        wide = [
            self.add("Cast", [value], f"{name}/wide{index}", to=TensorProto.FLOAT)
            for index, value in enumerate((left, right))
        ]
        y = self.add("MatMul", wide, name)
        return self.add("Cast", [y], f"{name}/narrow", to=self.float_type)

    def block(self, x: str, name: str, tokens: int, with_bias: bool = False) -> str:
        normed = self.norm(x, f"{name}/norm1")
        y, _ = self.attend(normed, normed, f"{name}/attn", tokens, tokens, with_bias)
        x = self.add("Add", [x, y], f"{name}/add1")
        y = self.linear(self.norm(x, f"{name}/norm2"), f"{name}/fc1", 4 * self.dim)
        y = self.add("Gelu", [y], f"{name}/act")
        y = self.linear(y, f"{name}/fc2", self.dim, 4 * self.dim)
        return self.add("Add", [x, y], f"{name}/add2")

    def save(self, path: Path, source: onnx.ValueInfoProto, result: onnx.ValueInfoProto) -> Path:
        graph = helper.make_graph(self.nodes, "test", [source], [result], self.initializers)
        opsets = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def write_segmenter(
    path: Path,
    precision: str = "fp16",
    size: int = 64,
    batch: int | str = 1,
    depth: int = 2,
    scores: bool = False,
    read_logits: bool = False,
    float_head: bool = False,
    float_sums: bool = False,
    between: str = "",
) -> Path:
    """Write a ViT with an attention-to-mask head; its weights are random, its labels too.

    Args:
        path: the file.
        precision: of every floating-point tensor.
        size: height and width.
        batch: a number, or the name of a dynamic batch.
        depth: encoder blocks.
        scores: output float scores in place of labels.
        read_logits: tap QK^T beside its softmax, as a naive mask head does.
        float_head: keep the class logits in FP32, as a cast pass does where accuracy needs it.
        float_sums: cast the operands of attention's MatMuls to FP32, and their results back.
        between: an operator to put between each softmax and the MatMul behind it.
    """
    lead = batch if isinstance(batch, int) else -1
    graph = GraphWriter(FLOAT_TYPES[precision], 64, 2, lead, float_sums, between)
    grid, count = size // PATCH, len(CLASSES)
    tokens = grid * grid
    # uint8 meets Casts from and to FP32 or FP16 alone, as in what export writes.
    first = TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    x = graph.add("Cast", ["image"], "patch_embed/cast", to=first)
    if first != graph.float_type:
        x = graph.add("Cast", [x], "patch_embed/cast_again", to=graph.float_type)
    middle = graph.floats("patch_embed/middle", np.array(128.0))
    x = graph.add("Sub", [x, middle], "patch_embed/centre")
    x = graph.add("Mul", [x, graph.floats("patch_embed/r", np.array(1 / 64))], "patch_embed/scale")
    x = graph.reshape(x, "patch_embed/rows", grid, PATCH, grid, PATCH * 3)
    x = graph.add("Transpose", [x], "patch_embed/patches", perm=[0, 1, 3, 2, 4])
    x = graph.product(
        graph.reshape(x, "patch_embed/flatten", tokens, PIXELS), "patch_embed/proj", 64, PIXELS
    )
    x = graph.add("Add", [x, graph.random("patch_embed/pos", tokens, 64)], "patch_embed/add")
    for index in range(depth):
        x = graph.block(x, f"encoder/{index}", tokens)
    classes, masks = _add_head(graph, x, tokens, read_logits, float_head)
    return _add_tail(graph, classes, masks, path, (batch, grid, size, count), scores)


def _add_head(
    graph: GraphWriter, x: str, tokens: int, read_logits: bool, float_head: bool
) -> tuple[str, str]:
    """Return class probabilities `(B, Q, C)` and mask logits `(B, Q, N)`."""
    count = len(CLASSES)
    memory = graph.norm(x, "head/norm")
    # Queries that depend on the image, else the compiler folds what follows.
    inner = graph.integers("head/inner_axes", [1, 2])
    mean = graph.add("ReduceMean", [memory, inner], "head/mean", keepdims=1)
    gate = graph.add("Sigmoid", [mean], "head/gate")
    queries = graph.add("Mul", [graph.random("head/queries", 1, count, 64), gate], "head/gated")
    y, logits = graph.attend(queries, memory, "head/0/cross", count, tokens)
    if read_logits:
        axes = graph.integers("head/axis", [1])
        masks = graph.add("ReduceMean", [logits, axes], "head/masks", keepdims=0)
    else:
        turned = graph.add("Transpose", [memory], "head/turned", perm=[0, 2, 1])
        masks = graph.add("MatMul", [graph.product(queries, "head/mask", 64), turned], "head/masks")
    kind = TensorProto.FLOAT if float_head else graph.float_type
    y = graph.add("Cast", [y], "head/to_float", to=kind)
    y = graph.add("MatMul", [y, graph.random("head/class/w", 64, count, float_type=kind)],
                  "head/class")  # fmt: skip
    y = graph.add("Softmax", [y], "head/class_softmax", axis=-1)
    return graph.add("Cast", [y], "head/from_float", to=graph.float_type), masks


def _add_tail(
    graph: GraphWriter,
    classes: str,
    masks: str,
    path: Path,
    sizes: tuple[int | str, int, int, int],
    scores: bool,
) -> Path:
    batch, grid, size, count = sizes
    mix = graph.add("Transpose", [classes], "tail/turned", perm=[0, 2, 1])  # (B, C, Q)
    masks = graph.reshape(masks, "tail/grid", count, grid, grid)
    scales = graph.floats("tail/scales", np.array([1, 1, PATCH, PATCH]), TensorProto.FLOAT)
    masks = graph.add("Resize", [masks, "", scales], "tail/resize", mode="linear")
    masks = graph.add("Sigmoid", [masks], "tail/sigmoid")
    masks = graph.reshape(masks, "tail/flat", count, size * size)
    y = graph.add("MatMul", [mix, masks], "tail/mix")
    shape = [count, size, size] if scores else [size, size]
    if not scores:
        y = graph.add("ArgMax", [y], "tail/argmax", axis=1, keepdims=0)
    y = graph.reshape(y, "tail/image", *shape)
    if not scores:
        y = graph.add("Cast", [y], "tail/half", to=TensorProto.FLOAT16)
    name, kind = ("scores", TensorProto.FLOAT) if scores else ("labels", TensorProto.UINT8)
    graph.add("Cast", [y], name, to=kind)
    graph.nodes[-1].name = "tail/output"
    source = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, size, size, 3])
    return graph.save(path, source, helper.make_tensor_value_info(name, kind, [batch, *shape]))


def write_blocks(path: Path, with_bias: bool) -> Path:
    """Write three ViT-B blocks in FP16 on 1024 tokens: the graph whose kernels were counted."""
    graph, tokens = GraphWriter(TensorProto.FLOAT16, dim=768, heads=12), 1024
    x = "x"
    for index in range(3):
        x = graph.block(x, f"encoder/{index}", tokens, with_bias)
    graph.add("Identity", [x], "y")
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, tokens, 768]) for name in "xy"
    )
    return graph.save(path, source, result)


def describe(
    precision: str = "fp32", size: int = 64, batch: int | str = 1, scores: bool = False
) -> Manifest:
    """Return the manifest, without files, of what `write_segmenter` writes."""
    shape = (batch, len(CLASSES), size, size) if scores else (batch, size, size)
    output = TensorSpec("scores" if scores else "labels", "float32" if scores else "uint8", shape)
    return Manifest(
        version="0.1.0",
        model=ModelInfo("tiny", 12345, "Apache-2.0", random_weights=True),
        precision=precision,
        input=TensorSpec("image", "uint8", (batch, size, size, 3)),
        outputs=(output,),
        classes=tuple(name for name, _ in CLASSES),
        palette=tuple(colour for _, colour in CLASSES),
        batch=(batch, batch, batch) if isinstance(batch, int) else (1, 2, 4),
    )


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A function that writes a segmenter, once for all tests that ask for the same one."""
    folder, known = tmp_path_factory.mktemp("segmenters"), dict[str, Path]()

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in known:
            known[key] = write_segmenter(folder / f"model{len(known)}.onnx", **options)
        return known[key]

    return make


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A function that writes the three counted blocks."""

    def make(with_bias: bool) -> Path:
        return write_blocks(tmp_path_factory.mktemp("blocks") / "blocks.onnx", with_bias)

    return make


@pytest.fixture
def artifact(tmp_path: Path, segmenter: Writer) -> Writer:
    """A function that makes an artifact folder for ONNX Runtime alone."""

    def make(
        precision: str = "fp32", batch: int | str = 1, scores: bool = False, size: int = 64
    ) -> Path:
        folder = tmp_path / "artifact"
        folder.mkdir()
        described = describe(precision, size, batch, scores)
        model = onnx.load(segmenter(precision=precision, batch=batch, scores=scores, size=size))
        helper.set_model_props(model, described.metadata())
        onnx.save(model, folder / "model.onnx")
        entry = BuiltTarget("ort", onnxruntime.__version__, (), "model.onnx")
        files = {"model.onnx": hash_file(folder / "model.onnx")}
        replace(described, files=files, targets=(entry,)).write(folder)
        return folder

    return make


@pytest.fixture
def images() -> np.ndarray:
    """Three images of the artifacts' size, of noise."""
    return np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
