from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.target import Target
from engines.trt_builder import BuildOptions, EngineBuildError, build_engine

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx
Writer = Callable[..., Path]
RTX = Target.TRT_RTX


def test_an_engine_says_what_it_is_made_of(segmenter: Writer) -> None:
    engine = build_engine(segmenter(), RTX, ("SM89",), progress=False)
    assert engine.compute_capabilities == ("SM89",)
    assert engine.version.startswith("1.")
    assert len(engine.plan) > 100_000
    assert engine.bindings == ("image", "labels")
    assert engine.activation_bytes is not None
    assert engine.build_seconds > 0
    assert any(kernel.is_attention for kernel in engine.kernels)


def test_builds_repeat_byte_for_byte(segmenter: Writer) -> None:
    first, second = (build_engine(segmenter(), RTX, ("SM86",), progress=False) for _ in range(2))
    assert first.plan == second.plan


def test_capabilities_of_one_generation_share_an_engine(blocks: Writer) -> None:
    """Why `build_targets` makes one engine for Ampere and later, and one for Turing."""
    path = blocks(with_bias=False)
    single, shared, turing = (
        build_engine(path, RTX, names, progress=False)
        for names in (("SM89",), ("SM86", "SM89", "SM120"), ("SM75", "SM89"))
    )
    counts = [sum(kernel.launches for kernel in e.kernels) for e in (single, shared, turing)]
    assert counts == [21, 21, 24]
    assert 0 < len(shared.plan) - len(single.plan) < 10_000


def test_a_dynamic_batch_takes_a_profile(segmenter: Writer) -> None:
    path = segmenter(batch="batch")
    options = BuildOptions(batch=(1, 2, 4))
    small = build_engine(path, RTX, ("SM89",), options, progress=False)
    large = build_engine(path, RTX, ("SM89",), replace(options, batch=(1, 2, 8)), progress=False)
    assert small.activation_bytes is not None
    assert large.activation_bytes is not None
    assert large.activation_bytes > small.activation_bytes


def test_a_range_for_a_static_batch_is_refused(segmenter: Writer) -> None:
    options = BuildOptions(batch=(1, 2, 4))
    with pytest.raises(ValueError, match="a static batch of 1, got 1:2:4; export it with --batch"):
        build_engine(segmenter(), RTX, ("SM89",), options, progress=False)


def test_options_reach_the_builder(segmenter: Writer) -> None:
    options = BuildOptions(workspace_mib=512, optimization_level=1)
    assert build_engine(segmenter(), RTX, ("SM89",), options, progress=False).plan


def test_external_data_beside_the_file_is_found(segmenter: Writer, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(segmenter()), path, save_as_external_data=True, location="model.onnx.data",
        size_threshold=100,
    )  # fmt: skip
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    engine = build_engine(path, RTX, ("SM89",), progress=False)
    assert engine.plan == build_engine(segmenter(), RTX, ("SM89",), progress=False).plan
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(EngineBuildError, match=r"model\.onnx' cannot be parsed for trt-rtx SM89"):
        build_engine(path, RTX, ("SM89",), progress=False)


def test_a_capability_unknown_is_refused_with_those_known(segmenter: Writer) -> None:
    message = r"compute capability SM90 is not one that TensorRT-RTX .* compiles for; .*SM86, SM89"
    with pytest.raises(ValueError, match=message):
        build_engine(segmenter(), RTX, ("SM89", "SM90"), progress=False)


def test_the_builders_own_words_are_kept(segmenter: Writer) -> None:
    with pytest.raises(EngineBuildError, match=r"engine for trt-rtx SM75 was not built: .*b16"):
        build_engine(segmenter(precision="bf16"), RTX, ("SM75",), progress=False)


def test_the_parsers_own_words_name_the_node(segmenter: Writer, tmp_path: Path) -> None:
    model = onnx.load(segmenter())
    model.graph.node[4].op_type = "Fancy"
    onnx.save(model, tmp_path / "odd.onnx")
    name = model.graph.node[4].name
    with pytest.raises(EngineBuildError, match=rf"cannot be parsed .*node '{name}' \(Fancy\): "):
        build_engine(tmp_path / "odd.onnx", RTX, ("SM89",), progress=False)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(EngineBuildError, match=r"a\.onnx' is no ONNX model"):
        build_engine(tmp_path / "a.onnx", RTX, ("SM89",), progress=False)
    with pytest.raises(FileNotFoundError, match="no such ONNX file"):
        build_engine(tmp_path / "none.onnx", RTX, ("SM89",), progress=False)


def test_a_timing_cache_is_refused_where_nothing_is_timed(
    segmenter: Writer, tmp_path: Path
) -> None:
    options = BuildOptions(timing_cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="--timing-cache: TensorRT-RTX times nothing"):
        build_engine(segmenter(), RTX, ("SM89",), options, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": (2, 1, 4)}, "expected 1 <= min <= opt <= max"),
        ({"batch": (0, 1, 4)}, "expected 1 <= min <= opt <= max"),
        ({"workspace_mib": 0}, "expected at least 1 MiB, got 0"),
        ({"compute_capabilities": ()}, "expected at least one, such as SM89"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BuildOptions(**options)
