"""The fused kernel against the tail in PyTorch, by Triton's interpreter; and compiled, unrun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.fused_tail import (
    TailShape,
    compile_tail,
    count_fused_bytes,
    count_plain_bytes,
    run_tail,
)
from export.tail import Tail

# What a score may be off, relative: terms are positive, so rounding every sigmoid once rounds the
# sum no more. float32 sums in another order: 4e-7 seen.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
# The interpreter keeps bfloat16 as bits and multiplies those; its products get float32 here.
INTERPRET = """
import sys, numpy, torch, triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
from engines.fused_tail import TailShape, run_tail

def widen(handle):
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(numpy.uint32) << 16).view(numpy.float32), tl.float32)

multiply = InterpreterBuilder.create_dot
InterpreterBuilder.create_dot = lambda self, a, b, *rest: multiply(self, widen(a), widen(b), *rest)
cases = torch.load(sys.argv[1])
for case in cases:
    run_tail(case["classes"], case["masks"], case["labels"], TailShape(*case["shape"]))
torch.save([case["labels"] for case in cases], sys.argv[1])
"""


@dataclass(frozen=True)
class Case:
    name: str
    shape: TailShape
    batch: int = 1
    dtype: torch.dtype = torch.float32
    spread: float = 4.0
    not_a_number: bool = False
    unknown_class: int | None = None
    distinct: int | None = None
    sign: int = 1

    @property
    def label_type(self) -> torch.dtype:
        return torch.uint8 if self.shape.classes <= 256 else torch.int32

    def draw(self) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        shape = self.shape
        classes = torch.randn(self.batch, shape.queries, shape.padded_classes).softmax(dim=2)
        if self.distinct:
            classes = classes[:, :, torch.arange(shape.padded_classes) % self.distinct]
        classes *= self.sign
        classes[:, :, shape.classes :] = 0
        if self.unknown_class is not None:
            classes[0, 2, self.unknown_class] = torch.nan
        masks = torch.randn(self.batch, shape.queries, shape.grid[0] * shape.grid[1]) * self.spread
        if self.not_a_number:
            masks[0, 1, 5] = torch.nan
        return classes.to(self.dtype), masks.to(self.dtype)


CASES = [
    Case("as a model's", TailShape(40, 21, 24, (4, 4), (16, 16)), batch=2),
    Case("half", TailShape(40, 21, 24, (4, 4), (16, 16)), dtype=torch.float16),
    Case("bfloat16", TailShape(40, 21, 24, (4, 4), (16, 16)), dtype=torch.bfloat16),
    Case("odd sizes, pixels left over", TailShape(37, 5, 5, (3, 7), (6, 29)), batch=3),
    Case("smaller than its grid", TailShape(7, 3, 8, (9, 8), (6, 5))),
    Case("one of everything", TailShape(1, 1, 8, (1, 1), (2, 3))),
    Case("two blocks of classes", TailShape(33, 300, 304, (3, 3), (8, 8))),
    Case("every class of a byte", TailShape(16, 256, 256, (3, 3), (8, 8))),
    Case("sigmoids of 0 and 1", TailShape(20, 9, 16, (4, 4), (16, 16)), spread=1e4),
    Case("a mask that is not a number", TailShape(9, 6, 8, (4, 4), (8, 8)), not_a_number=True),
    Case("a class that is not a number", TailShape(9, 6, 8, (4, 4), (8, 8)), unknown_class=3),
    Case("no score above the padding's", TailShape(9, 6, 8, (4, 4), (8, 8)), sign=-1),
    # Half precision and sigmoids of 1/2 make sums exact, in whatever order.
    Case("ties", TailShape(9, 300, 304, (4, 4), (8, 8)), 1, torch.float16, 0, distinct=2),
]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the interpreter makes of every case; it is chosen when the kernel is imported."""
    pytest.importorskip("triton", reason="the extra fused-tail is not installed")
    path = tmp_path_factory.mktemp("interpreted") / "cases.pt"
    cases = []
    for case in CASES:
        classes, masks = case.draw()
        # 255 is no label of most cases, and would show what was never written.
        empty = torch.full((case.batch, *case.shape.size), 255, dtype=case.label_type)
        shape = tuple(vars(case.shape).values())
        cases.append({"classes": classes, "masks": masks, "labels": empty, "shape": shape})
    torch.save(cases, path)
    subprocess.run(
        [sys.executable, "-c", INTERPRET, str(path)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    return {case.name: found for case, found in zip(CASES, torch.load(path), strict=True)}


def find_scores(case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the tail's scores, computed in `dtype` of what the kernel is given."""
    classes, masks = case.draw()
    shape = case.shape
    tail = Tail(shape.classes, shape.grid, shape.size, shape.size, "scores", 1)
    scores: Tensor = tail(classes.to(dtype), masks.to(dtype))
    return scores


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_labels_are_those_of_the_tail(labels: dict[str, Tensor], case: Case) -> None:
    found = labels[case.name].long()
    expected, scores = find_scores(case, torch.float32).argmax(dim=1), find_scores(case)
    best, own = (scores.gather(1, which[:, None]) for which in (expected, found))
    tied = (best - own).abs() <= 2 * ROUNDING[case.dtype] * torch.maximum(best.abs(), own.abs())
    assert ((found == expected) | tied[:, 0]).all()
    if case.dtype is torch.float32:
        assert (found == expected).float().mean() >= 0.99


def test_of_equal_scores_the_first_wins(labels: dict[str, Tensor]) -> None:
    """Within a block of classes and across them."""
    assert labels["ties"].max() <= 1


def test_the_rule_for_ties_finds_wrong_labels(labels: dict[str, Tensor]) -> None:
    """What the comparison above allows is little: labels of a flipped image fail it."""
    case = CASES[1]
    scores = find_scores(case)
    best = scores.amax(dim=1)
    own = scores.gather(1, labels[case.name].flip(2).long()[:, None])[:, 0]
    assert (best - own > 2 * ROUNDING[case.dtype] * best).float().mean() > 0.3


@pytest.mark.parametrize("capability", ["SM80", "SM89", "SM90", "SM120"])
def test_it_compiles_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str
) -> None:
    pytest.importorskip("triton", reason="the extra fused-tail is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = compile_tail(TailShape(7, 7, 8, (16, 16), (256, 256)), "fp16", capability)
    assert kernel.cubin.startswith(b"\x7fELF")
    assert f".target sm_{capability[2:]}" in kernel.ptx
    assert "mma" in kernel.ptx  # the class mix runs on tensor cores
    assert 0 < kernel.registers <= 255
    assert kernel.spilled_bytes == 0


def test_bytes_of_a_published_model() -> None:
    """ViT-B on ADE20K: the compiler's own tail moves 318 MB, its ideal four times 79."""
    shape = TailShape(150, 150, 152, (32, 32), (512, 512))
    assert count_fused_bytes(shape, "fp16", 1) == 2 * 150 * (152 + 1024) + 512 * 512
    assert count_plain_bytes(shape, "fp16", 2) == pytest.approx(2 * 317e6, rel=2e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ((7, 9, 8, (4, 4), (32, 32)), "9 classes do not fit 8 columns"),
        ((7, 7, 8, (4, 0), (32, 32)), "sizes of at least 1"),
        ((7, 7, 8, (4, 4), (65536, 65536)), "use the plain tail"),
    ],
)
def test_shapes_that_no_kernel_fits(changed: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TailShape(*changed)


def test_tensors_and_capabilities_that_do_not_fit() -> None:
    pytest.importorskip("triton", reason="the extra fused-tail is not installed")
    shape = TailShape(7, 7, 8, (4, 4), (32, 32))
    classes, masks = torch.rand(1, 7, 8), torch.rand(1, 7, 16)
    labels = torch.empty(1, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"classes \(1, 7, 8\), got \(1, 7, 7\)"):
        run_tail(classes[:, :, :7].contiguous(), masks, labels, shape)
    with pytest.raises(ValueError, match="not contiguous; call"):
        run_tail(classes, masks, labels.transpose(1, 2), shape)
    many = TailShape(7, 300, 304, (4, 4), (32, 32))
    with pytest.raises(ValueError, match="do not hold 300 classes; use int32"):
        run_tail(torch.rand(1, 7, 304), masks, labels, many)
    with pytest.raises(ValueError, match="from SM80, got 'SM75'"):
        compile_tail(shape, "fp16", "SM75")


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"segvit-deploy\[fused-tail\]"):
        compile_tail(TailShape(7, 7, 8, (4, 4), (32, 32)), "fp16", "SM89")
