"""Combinations of compiler version, GPU and model that are reported to compute wrong labels.

A build consults this table before it compiles. A report that names this version, GPU and datatype
and that nobody has closed is an error; one about a neighbor of it is a warning that the manifest
keeps. TensorRT and TensorRT-RTX count their versions separately, so no row speaks of both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from engines.graph import load_without_weights
from engines.target import Target

# Those whose attentions are in 16 bits or less, and therefore fuse.
FUSING = ("fp16", "bf16", "int8", "fp8")
# Those whose attentions are in FP16; of BF16 graphs only the head's are.
HALF = ("fp16", "int8", "fp8")
_SELF_TEST = (
    "run python -m engines.segment --artifact DIR --self-test on that GPU before anything relies "
    "on its labels"
)


class KnownWrongError(ValueError):
    """A combination that is known to be wrong was asked for."""


@dataclass(frozen=True)
class KnownWrong:
    """One report, and the combinations that it is about.

    Attributes:
        source: where it was reported.
        what: what goes wrong.
        instead: what to use in its place.
        target: the compiler.
        since: the first version that it is about.
        before: the first version that it is not about, None while there is none.
        is_certain: whether the report is about this very combination and still stands.
        capabilities: of the GPUs; none means any.
        precisions: of the build; none means any.
        head_sizes: of the attentions, channels a head; none means any, or that no one said.
        min_tokens: the fewest keys of an attention that show it.
        min_batch: the fewest images a call that show it.
        rotary: only models whose positions are rotary (DINOv3).
        fused: only attentions that fuse.
    """

    source: str
    what: str
    instead: str
    target: Target
    since: str
    before: str | None
    is_certain: bool
    capabilities: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    head_sizes: tuple[int, ...] = ()
    min_tokens: int = 0
    min_batch: int = 1
    rotary: bool = False
    fused: bool = False

    def describe(self) -> str:
        """Return the report and the alternative in one line."""
        return f"{self.source}: {self.what}; instead, {self.instead}"


@dataclass(frozen=True)
class Attentions:
    """What of a graph the table asks for.

    `head_sizes` are channels a head, `tokens` the most keys of an attention, 0 where the graph
    does not say; `is_unfused` says that the graph asks for attentions that do not fuse.
    """

    head_sizes: frozenset[int] = frozenset()
    tokens: int = 0
    is_rotary: bool = False
    is_unfused: bool = False


@dataclass(frozen=True)
class Combination:
    """What is about to be built; `batch` is the most images a call."""

    target: Target
    version: str
    capabilities: tuple[str, ...]
    precision: str
    batch: int = 1
    attentions: Attentions = Attentions()


_BLACKWELL = (
    "fused attention gives wrong values without an error on SM120, in FP16 and in BF16 (a ViT "
    "detector at 1008 px: the best score falls from 0.933 to 0.045); FP32 is right"
)
_UNFUSED = "build with --fp32, or with --attention unfused; or use another GPU"
_BATCH_OF_ONE = "build with --batch 1, or compare rows of equal images on that GPU first"
_DINOV3 = "use TensorRT 10.6 or later, or TensorRT-RTX"

KNOWN_WRONG = (
    # Open on 2026-08-24. The report names 10.16.1 and an earlier version, which could not be read,
    # and no head size (SAM 3). FP32 sums cannot cure it: BF16 kernels have them.
    KnownWrong(
        "NVIDIA/TensorRT#4837", _BLACKWELL, _UNFUSED, Target.TRT, "10.16", "10.17", is_certain=True,
        capabilities=("SM120",), precisions=FUSING, fused=True,
    ),
    KnownWrong(
        "NVIDIA/TensorRT#4837", f"{_BLACKWELL}. Reported for 10.16.1 and one version before it, "
        "and still open", f"{_SELF_TEST}, or {_UNFUSED}", Target.TRT, "10.0", None,
        is_certain=False, capabilities=("SM120",), precisions=FUSING, fused=True,
    ),
    # Nobody reported TensorRT-RTX. Its fused attentions bear the same name (_gemm_mha_v2).
    KnownWrong(
        "NVIDIA/TensorRT#4837", f"{_BLACKWELL}. Reported for TensorRT 10.16.1, not for "
        "TensorRT-RTX, whose attention kernels bear the same name", _SELF_TEST,
        Target.TRT_RTX, "1.0", None, is_certain=False, capabilities=("SM120",), precisions=FUSING,
        fused=True,
    ),
    # Open. 10.3 gives almost a single class in FP16 (ViT-B/16, 2026-03-16; 8.6.1 is right); 10.4
    # gives NaN in FP16 and a cosine similarity of 0.018 in FP32 (RTX A6000, 2026-05-03). A model
    # that fails in 10.4 is right in 10.6 (Intellindust-AI-Lab/DEIMv2#112).
    KnownWrong(
        "NVIDIA/TensorRT#4723 and #4742", "DINOv3 segmenters give almost a single class, or NaN, "
        "in FP16", _DINOV3, Target.TRT, "10.3", "10.5", is_certain=True, precisions=HALF,
        rotary=True,
    ),
    KnownWrong(
        "NVIDIA/TensorRT#4742", "DINOv3 ViT-B/16 is wrong in FP32 too", _DINOV3, Target.TRT,
        "10.4", "10.5", is_certain=True, capabilities=("SM86",), precisions=("fp32",), rotary=True,
    ),
    KnownWrong(
        "Intellindust-AI-Lab/DEIMv2#112", "a DINOv3 detector that fails in FP16 with TensorRT 10.4 "
        "is right with 10.6; nobody reported 10.5", f"{_DINOV3}, or {_SELF_TEST}", Target.TRT,
        "10.5", "10.6", is_certain=False, precisions=HALF, rotary=True,
    ),
    # NVIDIA's own release notes of 10.0.0 EA; fixed in 10.0.1, as the reporter confirmed.
    KnownWrong(
        "NVIDIA/TensorRT#3777", "the fused attention kernel _gemm_mha_v2 differs from PyTorch in "
        "FP16", "use TensorRT 10.0.1 or later", Target.TRT, "10.0", "10.0.1", is_certain=True,
        precisions=HALF, fused=True,
    ),
    # Open, of other models: SegFormer (10.11 and 11.1), a DETR (11.1; one user saw it in 10.13
    # with a dynamic batch), a bare attention of 16 heads of 64 (10.6 and 10.16, FP16).
    KnownWrong(
        "NVIDIA/TensorRT#4853", "SegFormer is wrong by orders of magnitude for every batch above "
        "one, in FP32 and FP16, with TensorRT 10.11 and 11.1", _BATCH_OF_ONE, Target.TRT, "10.11",
        None, is_certain=False, capabilities=("SM89", "SM120"), min_batch=2,
    ),
    KnownWrong(
        "NVIDIA/TensorRT#4813", "a detector's engine gives different results for equal images of "
        "one batch, in FP32", _BATCH_OF_ONE, Target.TRT, "11.1", None, is_certain=False,
        capabilities=("SM89", "SM120"), min_batch=2,
    ),
    KnownWrong(
        "NVIDIA/TensorRT#4796", "an attention gives different results for equal rows of one batch "
        "in FP16, with TensorRT 10.6 and 10.16", _BATCH_OF_ONE, Target.TRT, "10.6", "10.17",
        is_certain=False, capabilities=("SM89",), precisions=HALF, head_sizes=(64,), min_batch=2,
    ),
    # tier4/autoware-ml#95, 500 queries and 65,536 keys; the version is not given. The sum of the
    # softmax passes FP16's largest number, 65,504, when all logits are close.
    KnownWrong(
        "tier4/autoware-ml#95", "fused FP16 attention with more than 65,504 keys gives NaN",
        "build with --bf16, or for smaller images", Target.TRT, "10.0", None, is_certain=False,
        precisions=HALF, min_tokens=65_505, fused=True,
    ),
)  # fmt: skip


def find_known_wrong(
    combination: Combination, table: Sequence[KnownWrong] | None = None
) -> list[KnownWrong]:
    """Return the rows of a table about a combination; of one report's, the certain one alone."""
    rows = KNOWN_WRONG if table is None else table
    found = [row for row in rows if _matches(row, combination)]
    certain = {row.source for row in found if row.is_certain}
    return [row for row in found if row.is_certain or row.source not in certain]


def check_known_wrong(
    combination: Combination, allowed: bool = False, table: Sequence[KnownWrong] | None = None
) -> tuple[str, ...]:
    """Return what the manifest has to say of a combination.

    Args:
        combination: what is about to be built.
        allowed: build even what is known to be wrong; the report becomes a warning.
        table: the rows; None takes KNOWN_WRONG.

    Raises:
        KnownWrongError: if a row about this very combination stands, unless it is allowed.
    """
    found = find_known_wrong(combination, table)
    certain = next((row for row in found if row.is_certain), None)
    if certain is not None and not allowed:
        names = " ".join(combination.capabilities)
        raise KnownWrongError(
            f"{combination.target} {combination.version} for {names} in {combination.precision} "
            f"is known to be wrong: {certain.describe()} (--allow-known-wrong builds it all the "
            "same)"
        )
    return tuple(
        f"known to be wrong, built as allowed: {row.describe()}"
        if row.is_certain
        else f"may be wrong: {row.describe()}"
        for row in found
    )


def read_attentions(onnx_path: str | Path) -> Attentions:
    """Return what an ONNX file says of its attentions.

    Raises:
        ValueError: if the file is no ONNX model.
    """
    model = load_without_weights(onnx_path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    dims = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in typed
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    sizes, tokens = set(), 0
    for node in model.graph.node:
        shape = dims.get(node.input[0], []) if node.op_type == "Softmax" else []
        product = _find_product(node, producers) if len(shape) == 4 else None
        if product is not None:
            tokens = max(tokens, shape[-1])
            sizes.add(dims.get(product.input[0], [0])[-1])
    return Attentions(
        head_sizes=frozenset(size for size in sizes if size),
        tokens=tokens,
        is_rotary=json.loads(metadata.get("config", "{}")).get("position") == "rotary",
        is_unfused=json.loads(metadata.get("attention", "null")) == "unfused",
    )


def _find_product(
    softmax: onnx.NodeProto, producers: dict[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    """Return the MatMul that gives a softmax's logits, whatever scales or casts them between."""
    node: onnx.NodeProto | None = producers.get(softmax.input[0])
    while node is not None and node.op_type != "MatMul":
        node = producers.get(node.input[0]) if node.input else None
    return node


def _matches(row: KnownWrong, combination: Combination) -> bool:
    attentions = combination.attentions
    version = _parse_version(combination.version)
    return (
        row.target is combination.target
        and version >= _parse_version(row.since)
        and (row.before is None or version < _parse_version(row.before))
        and _overlap(row.capabilities, combination.capabilities)
        and _overlap(row.precisions, (combination.precision,))
        and (not attentions.head_sizes or _overlap(row.head_sizes, attentions.head_sizes))
        and attentions.tokens >= row.min_tokens
        and combination.batch >= row.min_batch
        and (attentions.is_rotary or not row.rotary)
        and not (row.fused and attentions.is_unfused)
    )


def _overlap(wanted: Sequence[object], got: Sequence[object] | frozenset[int]) -> bool:
    return not wanted or any(item in wanted for item in got)


def _parse_version(text: str) -> tuple[int, ...]:
    """Return a version's numbers without trailing zeros: 10.16 and 10.16.0 are one.

    Raises:
        ValueError: if it begins with no number.
    """
    numbers = re.match(r"\d+(\.\d+)*", text)
    if numbers is None:
        raise ValueError(f"version '{text}': expected numbers such as 10.16.0.72")
    parsed = [int(part) for part in numbers[0].split(".")]
    while parsed and parsed[-1] == 0:
        parsed.pop()
    return tuple(parsed)
