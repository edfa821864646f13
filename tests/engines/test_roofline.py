"""Estimates at published peaks: by hand, shared among kernels, refused where sizes are open."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from engines.kernels import Kernel, KernelTensor
from engines.roofline import (
    GPUS,
    LAUNCH_US,
    Gpu,
    count_flops,
    estimate_kernels,
    estimate_ms,
    find_gpu,
)

# 1 GB/s is 1,000 bytes a microsecond; one tera-operation a second is 10**6 in one.
SLOW = Gpu("slow", "SM89", 1.0, {"Half": 1.0, "Int8": 2.0}, "made up")


def _tensor(dims: tuple[int, ...], datatype: str = "Half") -> KernelTensor:
    return KernelTensor("t", dims, tuple(1 for _ in dims), datatype)


def _product(datatype: str, *nodes: str) -> Kernel:
    weight = _tensor((100, 10), datatype)
    return Kernel("__myl_FcAdd", "gemm", (_tensor((5, 100)),), (weight,), (_tensor((5, 10)),), "",
                  nodes)  # fmt: skip


def _estimate_us(kernels: list[Kernel], flops: dict[str, float]) -> float:
    return estimate_ms(kernels, flops, SLOW) * 1e3


def test_the_longer_of_arithmetic_and_traffic_counts() -> None:
    traffic_us = (500 + 1000 + 50) * 2 / 1000
    assert _estimate_us([_product("Half", "a")], {"a": 1e6}) == pytest.approx(
        traffic_us + LAUNCH_US
    )
    assert _estimate_us([_product("Half", "a")], {"a": 7e6}) == pytest.approx(7.0 + LAUNCH_US)
    # In INT8 the weight is half as large and the arithmetic twice as fast.
    assert _estimate_us([_product("Int8", "a")], {"a": 7e6}) == pytest.approx(3.5 + LAUNCH_US)


def test_a_product_in_two_kernels_is_counted_once() -> None:
    kernels = [_product("Half", "a"), _product("Half", "a", "b")]
    assert _estimate_us(kernels, {"a": 20e6, "b": 5e6}) == pytest.approx(25.0 + 2 * LAUNCH_US)


def test_what_launches_nothing_costs_nothing() -> None:
    event = Kernel("__mye1", "signal", (), (), (), "", ())
    assert _estimate_us([event], {}) == 0


def test_open_sizes_and_missing_datatypes_are_refused() -> None:
    opened = Kernel("k", "move", (_tensor((-1, 4)),), (), (), "", ("x",))
    with pytest.raises(ValueError, match=r"'k' has open sizes.*fixed --batch"):
        _estimate_us([opened], {})
    with pytest.raises(ValueError, match="slow has no peak for FP8"):
        _estimate_us([_product("FP8", "a")], {"a": 1.0})


def test_a_machine_is_estimated_by_a_gpu_like_it() -> None:
    names = {sm: gpu and gpu.name for sm in ("SM89", "SM90", "SM70") for gpu in [find_gpu(sm)]}
    assert names == {"SM89": "RTX-4090", "SM90": "H100", "SM70": None}


def test_peaks_have_sources_and_sane_ratios() -> None:
    assert {"T4", "L4", "RTX-4090", "RTX-5090", "A100", "H100"} <= set(GPUS)
    for gpu in GPUS.values():
        assert gpu.source
        assert gpu.tera_ops["Int8"] >= 2 * gpu.tera_ops["Half"] > 2 * gpu.tera_ops["Float"]


def _save(path: Path, batch: int | str) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="matmul"),
        helper.make_node("Gemm", ["g", "w"], ["gm"], name="gemm"),
        helper.make_node("Conv", ["c", "k"], ["cv"], name="conv"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [value("x", 1, [batch, 7, 4]), value("g", 1, [3, 4]), value("c", 1, [1, 2, 5, 5]),
         value("w", 1, [4, 6]), value("k", 1, [8, 2, 3, 3])],
        [value(name, TensorProto.FLOAT, None) for name in ("m", "gm", "cv")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_operations_by_hand(tmp_path: Path) -> None:
    assert count_flops(_save(tmp_path / "m.onnx", 2)) == {
        "matmul": 2 * 2 * 7 * 6 * 4,
        "gemm": 2 * 3 * 6 * 4,
        "conv": 2 * 8 * 3 * 3 * 2 * 3 * 3,
    }


def test_a_dynamic_batch_has_no_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sizes of 'matmul' are open"):
        count_flops(_save(tmp_path / "m.onnx", "batch"))


def test_each_kernel_says_what_bounds_it() -> None:
    kernels = [_product("Half", "a"), _product("Half", "b"), _product("Half", "c")]
    flops = {"a": 9e6, "b": 1e6, "c": 0.0}
    slow = estimate_kernels(kernels, flops, SLOW)
    assert [estimate.bound for estimate in slow] == ["arithmetic", "memory", "memory"]
    assert [estimate.flops for estimate in slow] == [9e6, 1e6, 0.0]
    assert {estimate.byte_count for estimate in slow} == {1550 * 2}
    assert slow[0].total_us == pytest.approx(9.0 + LAUNCH_US)
    assert {e.bound for e in estimate_kernels(kernels, flops, GPUS["H100"])} == {"launch"}


def test_bf16_is_as_fast_as_fp16_where_there_is_any() -> None:
    for gpu in GPUS.values():
        expected = None if gpu.name == "T4" else gpu.find_peak("Half")
        assert gpu.find_peak("BFloat16") == expected
    with pytest.raises(ValueError, match="T4 has no peak for BFloat16"):
        estimate_kernels([_product("BFloat16", "a")], {"a": 1.0}, GPUS["T4"])
