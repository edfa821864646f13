"""What an ONNX graph asks of a compiler: its attentions, and the datatype of every GEMM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from engines.onnx_edges import Edges
from segvit.config import SegViTConfig

# Initializers above this many elements are weights; shape inference never reads their values.
_WEIGHT_ELEMENTS = 4096
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_EMBEDDING = "patch_embed/"
_TAIL_SIGMOID = "tail/Sigmoid"


@dataclass(frozen=True)
class Graph:
    """What the audit compares an engine with.

    `attentions` names the softmax (or Attention) node of each; `products` maps each MatMul, Gemm
    and Conv node to the datatype asked for, spelled as the builders do; `metadata` is the file's.
    `attention_products` maps a softmax to the GEMMs before and behind it, which a fused attention
    has no kernels for, and `mask_datatypes` to the datatypes of what is added to its logits;
    `float_sums` names the softmaxes whose GEMMs stand between casts to FP32. `node_datatypes` maps
    every node to the datatypes of its inputs and outputs. `norms` names the LayerNormalization
    nodes, `constants` the GEMMs of weights alone, which compilers compute once.
    `described_attentions` is their number by the model's description, None for a file without one.
    `tensors` maps the names of inputs and outputs to their shapes, a dynamic size as -1.
    """

    attentions: tuple[str, ...]
    products: dict[str, str]
    metadata: dict[str, str]
    attention_products: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mask_datatypes: dict[str, frozenset[str]] = field(default_factory=dict)
    float_sums: frozenset[str] = frozenset()
    node_datatypes: dict[str, frozenset[str]] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    described_attentions: int | None = None
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """How often the encoder is there: once, or once a batch of windows."""
        return max(1, sum(name.startswith(_EMBEDDING) for name in self.products))

    @property
    def config(self) -> SegViTConfig | None:
        """The model's description, None for a file that `export.build` did not make."""
        return _read_config(self.metadata)

    @property
    def tails(self) -> int:
        """How many strips, images or windows the tail is cut into; 0 for another tail."""
        return sum(name.startswith(_TAIL_SIGMOID) for name in self.node_datatypes)


def read_graph(onnx_path: str | Path) -> Graph:
    """Return what the ONNX file asks for; its weights are not read into memory twice.

    Raises:
        ValueError: if the file is no ONNX model, its description cannot be read, or it holds nodes
            without names, which no engine's kernels could be traced back to.
    """
    model, weights = _load(onnx_path)
    nodes = model.graph.node
    products = [node for node in nodes if node.op_type in _PRODUCTS]
    softmaxes = [node for node in nodes if node.op_type in ("Softmax", "Attention")]
    nameless = next((node for node in (*products, *softmaxes) if not node.name), None)
    if nameless is not None:
        raise ValueError(
            f"'{onnx_path}': the {nameless.op_type} that gives '{nameless.output[0]}' has no name, "
            "so kernels cannot be traced to it; export the model with node names"
        )
    edges = Edges(model.graph, weights)
    attentions = [found for node in softmaxes if (found := edges.find_attention(node))]
    by_name = {node.name: node for node in products}
    graph = Graph(
        attentions=tuple(attention.softmax for attention in attentions),
        products={name: edges.asked_datatype(node) for name, node in by_name.items()},
        metadata={entry.key: entry.value for entry in model.metadata_props},
        attention_products={a.softmax: a.gemms for a in attentions if a.gemms},
        mask_datatypes={a.softmax: a.mask_datatypes for a in attentions},
        float_sums=frozenset(
            a.softmax
            for a in attentions
            if a.gemms and all(edges.asks_float_sums(by_name[name]) for name in a.gemms)
        ),
        node_datatypes={node.name: edges.datatypes(node) for node in nodes if node.name},
        norms=frozenset(node.name for node in nodes if node.op_type == "LayerNormalization"),
        constants=frozenset(node.name for node in products if edges.is_constant(node)),
        tensors={
            value.name: tuple(
                -1 if size.dim_param else size.dim_value
                for size in value.type.tensor_type.shape.dim
            )
            for value in (*model.graph.input, *model.graph.output)
            if value.name not in weights
        },
    )
    config = graph.config
    if config is None:
        return graph
    return replace(graph, described_attentions=graph.passes * count_attentions(config))


def count_attentions(config: SegViTConfig) -> int:
    """Return the attentions of one pass through a model, as `export` writes it.

    One an encoder block; two a decoder layer, of its queries to themselves and to the tokens. The
    queries that a head begins with are constants, so that their first self-attention is one too.
    """
    layers = 2 * config.decoder_layers
    if config.head == "single":
        return config.depth + config.decoder_stages * layers - 1
    cascade = config.depth + len(config.tap_blocks) * layers - 1
    # Shrunk: upsampling, a stage a tap, then an ATM stage that begins with queries of its own.
    return cascade + layers - 1 if config.head == "shrunk" else cascade


def _read_config(metadata: Mapping[str, str]) -> SegViTConfig | None:
    if "config" not in metadata or "model" not in metadata:
        return None
    return SegViTConfig.from_json(metadata["config"])


def load_without_weights(onnx_path: str | Path) -> onnx.ModelProto:
    """Return the model with inferred types, its large initializers turned into inputs.

    Shape inference copies the whole model; without its weights that costs next to nothing.

    Raises:
        ValueError: if the file is no ONNX model.
    """
    return _load(onnx_path)[0]


def _load(onnx_path: str | Path) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return the model, and the names of those of its inputs that are weights."""
    path = Path(onnx_path)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf raises its own types, which differ between versions
        raise ValueError(f"'{path}' is no ONNX model: {error}") from error
    if not model.graph.node:
        raise ValueError(f"'{path}' is no ONNX model: expected nodes, got none")
    kept, weights = [], set()
    for tensor in model.graph.initializer:
        if _element_count(tensor.dims) > _WEIGHT_ELEMENTS or tensor.external_data:
            declared = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            model.graph.input.append(declared)
            weights.add(tensor.name)
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return onnx.shape_inference.infer_shapes(model), frozenset(weights)


def _element_count(dims: Iterable[int]) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
