"""What the CPU is asked about, and what ONNX Runtime does where the answer is no."""

from pathlib import Path

import onnx_ir as ir
import onnxruntime
import pytest

from calibration.qdq_insertion import QdqInsertionPass, list_activations
from calibration.scheme import SCHEMES
from engines import cpu, ort_runtime
from engines.cpu import sums_int8_exactly
from engines.devices import parse_device
from engines.ort_runtime import open_session
from tests.graphs import relative_rms, traced_graph
from tests.tiny_models import random_images


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        ("fpu avx2 avx512_vnni", True),
        ("avx_vnni", True),
        ("avx avx2 avx512f", False),
        (None, False),
    ],
)
def test_int8_sums_are_trusted_where_the_cpu_has_them(
    flags: str | None, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "_CPU_INFO", path)
    assert sums_int8_exactly() is exact


def test_onnx_runtime_multiplies_in_floats_where_sums_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are those of the Q/DQ graph in floats then; integer products round otherwise."""
    model = traced_graph(output="scores")
    limits = dict.fromkeys(list_activations(model.graph, SCHEMES["int8"]), 6.0)
    QdqInsertionPass(SCHEMES["int8"], limits)(model)
    path, images = tmp_path / "model.onnx", random_images(1, 64, 64)
    ir.save(model, path)
    written = onnxruntime.SessionOptions()
    written.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(path, written).run(None, {"image": images})[0]
    errors = {}
    for exact in (True, False):
        monkeypatch.setattr(ort_runtime, "sums_int8_exactly", lambda answer=exact: answer)
        session = open_session(path, parse_device("cpu"), threads=1)
        got = session.run(None, {"image": images})[0]
        errors[exact] = relative_rms(got, expected)
    assert errors[False] < 1e-5 < errors[True]
