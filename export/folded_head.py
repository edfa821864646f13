"""The decode heads with constants folded and dead outputs gone.

Shapes: `B` batch, `Q` queries, `N` tokens of a memory, `d` decoder width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.folded_encoder import FoldedLinear, PlainNorm, attend
from export.folds import (
    SHIFT,
    Affine,
    Projection,
    fold_into_bias,
    fold_into_weight,
    value_bias,
)
from segvit.atm import (
    AtmAttention,
    AtmStage,
    CascadeHead,
    DecodeHead,
    DecoderLayer,
    SingleHead,
    TokenProjection,
)
from segvit.shrunk import ShrunkHead
from segvit.typed_list import TypedList

# GEMM columns are padded to a multiple of 8, which aligns the class mix.
CLASS_ALIGNMENT = 8
# A padded class's logit: finite in FP16, and zero after any softmax.
ABSENT_LOGIT = -6e4


class FoldedSelfAttention(nn.Module):
    """Self-attention of post-norm queries, with residual: `gamma * z + attention + bias`."""

    gamma: Tensor

    def __init__(self, layer: DecoderLayer, stream: Affine) -> None:
        super().__init__()
        self.num_heads = layer.self_attn.num_heads
        query, key, value = Projection.of(layer.self_attn.qkv).split(3)
        query = query.scaled((query.weight.shape[1] // self.num_heads) ** -0.5)
        output = Projection.of(layer.self_attn.proj)
        self.query = FoldedLinear(fold_into_weight(query, stream))
        self.key = FoldedLinear(fold_into_weight(key, stream, with_bias=False))
        self.value = FoldedLinear(fold_into_weight(value, stream, with_bias=False))
        bias = output.bias + value_bias(value, output, stream) + stream.residual_bias
        self.proj = FoldedLinear(output.weight, bias)
        self.register_buffer("gamma", stream.gamma.float())
        self.norm = PlainNorm(layer.norm1, SHIFT)

    def forward(self, queries: Tensor) -> Tensor:
        """Return the normalised queries `(B, Q, d)`."""
        context = attend(
            self.query(queries), self.key(queries), self.value(queries), self.num_heads
        )
        normed: Tensor = self.norm(self.proj(context) + queries * self.gamma)
        return normed


class FoldedLayer(nn.Module):
    """A decoder layer on normalised streams `z`.

    1. Norm affines and biases fold as in `FoldedBlock`; the residual is `gamma * z` with its
       constant in the projection's bias.
    2. Where the queries are still constant (a head's first layer), everything up to the
       cross-attention's query is computed here, in float64.
    3. Mask logits, the mean over heads of scaled query-key products, are one full-width product
       beside the fused attention: `(z W_q W_k^T / heads) memory^T`. Only where they are read.

    Args:
        layer: the reference layer.
        stream: the queries' affine, or None where `constant` is given.
        memory: the memory's affine, or None for a memory given at its true value.
        constant: the queries before this layer, `(Q, d)`, where they do not depend on the image.
        predicts_masks: whether the mask logits are read.
    """

    gamma: Tensor
    output_gamma: Tensor
    constant_stream: Tensor
    constant_query: Tensor
    key: FoldedLinear
    value: FoldedLinear

    def __init__(
        self,
        layer: DecoderLayer,
        stream: Affine | None,
        memory: Affine | None,
        constant: Tensor | None = None,
        predicts_masks: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = layer.self_attn.num_heads
        query, key, value, output = _cross_projections(layer)
        scaled_query = query.scaled((query.weight.shape[1] // self.num_heads) ** -0.5)
        mid = Affine.of(layer.norm1)
        query_weight = fold_into_weight(scaled_query, mid)
        self.is_constant = constant is not None
        if constant is not None:
            normed = _fold_constant_queries(layer, constant)
            self.register_buffer("constant_stream", normed.float()[None])
            self.register_buffer("constant_query", (normed @ query_weight).float()[None])
        else:
            assert stream is not None
            self.self_attn = FoldedSelfAttention(layer, stream)
            self.query = FoldedLinear(query_weight)
        added = _fold_memory(self, key, value, output, memory)
        self.proj = FoldedLinear(output.weight, output.bias + added + mid.residual_bias)
        self.register_buffer("gamma", mid.gamma.float())
        self.norm2 = PlainNorm(layer.norm2, SHIFT)
        self.mask_query: FoldedLinear | None = None
        self.mask_bias: FoldedLinear | None = None
        if predicts_masks:
            mean_query = query_weight / self.num_heads
            self.mask_query = FoldedLinear(mean_query @ _mask_key(key, memory).T)
            if memory is None:  # the key's bias has no shift to ride on: one number a query
                self.mask_bias = FoldedLinear(mean_query @ key.bias[:, None])
        stream = Affine.of(layer.norm2)
        self.linear1 = FoldedLinear(*fold_into_bias(Projection.of(layer.linear1), stream))
        weight, bias = Projection.of(layer.linear2)
        self.linear2 = FoldedLinear(weight, bias + stream.residual_bias)
        self.register_buffer("output_gamma", stream.gamma.float())
        self.norm3 = PlainNorm(layer.norm3, SHIFT)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the normalised queries `(B, Q, d)` and, if read, the mask logits `(B, Q, N)`."""
        if self.is_constant:
            queries, query = self.constant_stream, self.constant_query
            if memory.shape[0] != 1:
                queries = queries.expand(memory.shape[0], -1, -1)
                query = query.expand(memory.shape[0], -1, -1)
        else:
            queries = self.self_attn(queries)
            query = self.query(queries)
        masks = None
        if self.mask_query is not None:
            masks = self.mask_query(queries) @ memory.transpose(1, 2)
            masks = masks if self.mask_bias is None else masks + self.mask_bias(queries)
        context = attend(query, self.key(memory), self.value(memory), self.num_heads)
        queries = self.norm2(self.proj(context) + queries * self.gamma)
        hidden = F.relu(self.linear1(queries))
        return self.norm3(self.linear2(hidden) + queries * self.output_gamma), masks


def _cross_projections(layer: DecoderLayer) -> list[Projection]:
    """Return the query, key, value and output projections of the cross-attention."""
    attention = layer.cross_attn
    if isinstance(attention, AtmAttention):
        parts = [Projection.of(linear) for linear in (attention.q, attention.k, attention.v)]
    else:
        parts = Projection.of(attention.qkv).split(3)
    return [*parts, Projection.of(attention.proj)]


def _fold_memory(
    module: FoldedLayer,
    key: Projection,
    value: Projection,
    output: Projection,
    memory: Affine | None,
) -> Tensor:
    """Set the key and value projections; return what the value's constant adds, `(d,)`."""
    if memory is None:
        module.key, module.value = FoldedLinear(key.weight), FoldedLinear(value.weight)
        return value.bias @ output.weight
    module.key = FoldedLinear(fold_into_weight(key, memory, with_bias=False))
    module.value = FoldedLinear(fold_into_weight(value, memory, with_bias=False))
    return value_bias(value, output, memory)


def _mask_key(key: Projection, memory: Affine | None) -> Tensor:
    return key.weight if memory is None else fold_into_weight(key, memory)


def _fold_constant_queries(layer: DecoderLayer, constant: Tensor) -> Tensor:
    """Return the first self-attention and its norm on constant queries, `(Q, d)`, float64."""
    attention = layer.self_attn
    heads = (
        part.apply(constant).unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
        for part in Projection.of(attention.qkv).split(3)
    )
    context = F.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)
    queries = constant + Projection.of(attention.proj).apply(context)
    return F.layer_norm(queries, queries.shape[-1:], eps=layer.norm1.eps) + SHIFT


def fold_stage(
    layers: TypedList[DecoderLayer],
    stream: Affine | None,
    memory: Affine | None,
    constant: Tensor | None,
    predicts_masks: bool,
) -> TypedList[FoldedLayer]:
    """Return the folded layers of one stage; only the last one's masks are read, if any."""
    folded: TypedList[FoldedLayer] = TypedList()
    for index, layer in enumerate(layers):
        is_last = index == len(layers) - 1
        folded.append(
            FoldedLayer(
                layer,
                stream,
                memory,
                constant if index == 0 else None,
                predicts_masks=predicts_masks and is_last,
            )
        )
        stream = Affine.of(layer.norm3)
    return folded


class FoldedProjection(nn.Module):
    """Linear C -> d and plain norm: the memory of a stage, as `z`."""

    def __init__(self, projection: TokenProjection) -> None:
        super().__init__()
        self.linear = FoldedLinear(*Projection.of(projection.linear))
        self.norm = PlainNorm(projection.norm, SHIFT)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(B, N, d)`."""
        memory: Tensor = self.norm(self.linear(tokens))
        return memory


class FoldedClassifier(nn.Module):
    """Class probabilities without "no object", columns padded to a multiple of eight.

    A product with a 0/1 vector takes the place of a slice, which would be a kernel of its own.
    """

    kept: Tensor

    def __init__(self, class_embed: nn.Linear, stream: Affine) -> None:
        super().__init__()
        weight, bias = fold_into_bias(Projection.of(class_embed), stream)
        num_classes = len(bias) - 1
        padding = -len(bias) % CLASS_ALIGNMENT
        self.linear = FoldedLinear(
            F.pad(weight, (0, padding)), F.pad(bias, (0, padding), value=ABSENT_LOGIT)
        )
        self.register_buffer("kept", (torch.arange(len(bias) + padding) < num_classes).float())

    def forward(self, queries: Tensor) -> Tensor:
        """Return `(B, Q, K + 1 + padding)`, zero beyond the first K."""
        probabilities: Tensor = self.linear(queries).softmax(dim=-1) * self.kept
        return probabilities


class FoldedCascade(nn.Module):
    """`CascadeHead` at inference: masks of every stage's last layer, classes of the last stage."""

    def __init__(self, head: CascadeHead) -> None:
        super().__init__()
        self.projections = TypedList(FoldedProjection(p) for p in head.projections)
        self.stages: TypedList[TypedList[FoldedLayer]] = TypedList()
        stream, constant = None, head.query_embed.weight.detach().double()
        for projection, stage in zip(head.projections, head.stages, strict=True):
            first = constant if not len(self.stages) else None
            self.stages.append(fold_stage(stage, stream, Affine.of(projection.norm), first, True))
            stream = Affine.of(stage[-1].norm3)
        assert stream is not None
        self.classifier = FoldedClassifier(head.class_embed, stream)

    def forward(self, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class probabilities `(B, Q, K+)` and mask logits `(B, Q, N)`."""
        queries, stage_masks = taps[-1], []
        for tokens, projection, stage in zip(
            reversed(taps), self.projections, self.stages, strict=True
        ):
            memory = projection(tokens)
            for layer in stage:
                queries, masks = layer(queries, memory)
            stage_masks.append(masks)
        # Summed pairwise from the left, as the stages come: `sum` would begin with an integer.
        return self.classifier(queries), reduce(torch.add, stage_masks)


class FoldedAtm(nn.Module):
    """`AtmStage` at inference: the last layer's masks and classes."""

    def __init__(self, atm: AtmStage, memory: Affine | None) -> None:
        super().__init__()
        constant = atm.query_embed.weight.detach().double()
        self.layers = fold_stage(atm.layers, None, memory, constant, True)
        self.classifier = FoldedClassifier(atm.class_embed, Affine.of(atm.layers[-1].norm3))

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities `(B, Q, K+)` and mask logits `(B, Q, N)`."""
        queries = memory
        for layer in self.layers:
            queries, masks = layer(queries, memory)
        return self.classifier(queries), masks


class FoldedSingle(nn.Module):
    """`SingleHead` at inference; a sum of several projections is taken at its true value."""

    def __init__(self, head: SingleHead) -> None:
        super().__init__()
        single = len(head.projections) == 1
        self.projections: TypedList[FoldedProjection | TokenProjection] = TypedList(
            FoldedProjection(p) if single else p for p in head.projections
        )
        memory = Affine.of(head.projections[0].norm) if single else None
        self.atm = FoldedAtm(head.atm, memory)

    def forward(self, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class probabilities `(B, Q, K+)` and mask logits `(B, Q, N)`."""
        pairs = zip(reversed(taps), self.projections, strict=True)
        memory = sum(projection(tokens) for tokens, projection in pairs)
        prediction: tuple[Tensor, Tensor] = self.atm(memory)
        return prediction


class FoldedShrunk(nn.Module):
    """`ShrunkHead` at inference; QU's first self-attention, on constants, is folded."""

    def __init__(self, head: ShrunkHead) -> None:
        super().__init__()
        self.projections = TypedList(FoldedProjection(p) for p in head.projections)
        self.stages: TypedList[TypedList[FoldedLayer]] = TypedList()
        stream, constant = None, head.upsample_embed.weight.detach().double()
        for projection, stage in zip(head.projections, head.stages, strict=True):
            first = constant if not len(self.stages) else None
            self.stages.append(fold_stage(stage, stream, Affine.of(projection.norm), first, False))
            stream = Affine.of(stage[-1].norm3)
        self.atm = FoldedAtm(head.atm, stream)

    def forward(self, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class probabilities `(B, Q, K+)` and mask logits `(B, Q, N)`."""
        queries = taps[0]
        for tokens, projection, stage in zip(taps, self.projections, self.stages, strict=True):
            memory = projection(tokens)
            for layer in stage:
                queries, _ = layer(queries, memory)
        prediction: tuple[Tensor, Tensor] = self.atm(queries)
        return prediction


Folded = FoldedCascade | FoldedSingle | FoldedShrunk
_FOLDS: dict[type[DecodeHead], Callable[[Any], Folded]] = {
    CascadeHead: FoldedCascade,
    SingleHead: FoldedSingle,
    ShrunkHead: FoldedShrunk,
}


def fold_head(head: DecodeHead) -> Folded:
    """Return the inference form of a decode head."""
    return _FOLDS[type(head)](head)
