"""What the report shows of each kind of result: nothing that a file holds is lost on the way."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.latency_results import compare_runs
from benchmarks.report_latency import describe_latency, find_measured
from benchmarks.report_parity import describe_parity
from benchmarks.report_quantisation import describe_quantisation
from benchmarks.report_sweep import read_sweep
from benchmarks.report_tables import Table, figure, make_table
from benchmarks.timing import summarise
from calibration.budget import Frontier, Point, SearchSetup, Speed
from calibration.layer_errors import LayerError
from export.manifest import Manifest, ManifestError
from segvit.images import write_png
from tests.benchmarks.small_artifacts import add_files, write_artifact

SAMPLES = {"PyTorch eager": [8.0, 9.0, 10.0], "ort fp16": [4.0, 4.5, 5.0]}
RATIO = {"ratio": 0.5, "low": 0.4, "high": 0.6, "rounds": 3, "confidence": 0.95}
LAYERS = (LayerError("encoder/0/fc1/MatMul", 0.25, 0.5, 1.5), LayerError("patch_embed", 0.125, 0.9))


def _texts(tables: list[Table], caption: str) -> list[list[str]]:
    """Return the texts of the rows of the table whose caption begins so."""
    table = next(table for table in tables if table.caption.startswith(caption))
    return [[f"{cell.text} {cell.interval}".strip() for cell in row] for row in table.rows]


@pytest.fixture
def latency() -> dict[str, Any]:
    """A result with everything that `benchmarks.latency` may hold."""
    timed = {name: asdict(summarise(values)) for name, values in SAMPLES.items()}
    run = {
        "batch": 1, "rounds": 3, "latency": timed, "samples_ms": SAMPLES,
        "images_per_second": {"PyTorch eager": 111.1, "ort fp16": 222.2},
        "ratios": {"PyTorch eager": {}, "ort fp16": {"PyTorch eager": RATIO}},
        "labels_equal_to_golden": {"PyTorch eager": 1.0, "ort fp16": 0.99875},
        "peak_mib": {"PyTorch eager": 640.0, "ort fp16": 128.0},
    }  # fmt: skip
    stages = {"decode": 1.5, "infer": 4.25}
    gpu = {"name": "L4", "memory_used_mib": 512, "throttled_by": ["power cap"]}
    result: dict[str, Any] = {
        **run, "subject": {"model": "tiny", "size": [16, 16]}, "machine": {"processor": "a CPU"},
        "artifacts": {"a": {"precision": "fp16", "files": {}}}, "threads": 2, "order": "in turns",
        "sweep": [run, {**run, "batch": 8}], "warnings": ["another process ran"], "notes": ["few"],
        "end_to_end": {"ort fp16": {"whole": timed["ort fp16"], "stages_p50_ms": stages}},
        "concurrency": {"ort fp16": {"images_per_second": {"1": 200.0, "4": 300.0}, "gain": RATIO}},
        "gpu_stages": {"trt fp16": {"h2d": timed["ort fp16"], "compute": timed["ort fp16"],
                                    "d2h": timed["ort fp16"], "enqueue": timed["ort fp16"],
                                    "energy_mj": 77.0}},
        "trtexec": {"switches": ["--useCudaGraph"], "order": "alone", "compute": timed["ort fp16"]},
        "gpus": {"before": {"gpus": [gpu]}, "after": {"gpus": [gpu]}},
    }  # fmt: skip
    then = {**result, "machine": {}, "ratios": {"ort fp16": {"PyTorch eager": RATIO | {"high": 9}}}}
    return result | {"against": compare_runs(result, then, Path("then.json"))}


def test_every_part_of_a_latency_run(latency: dict[str, Any]) -> None:
    shown = describe_latency(latency)
    tables = shown["tables"]
    assert shown["verdict"] == "as a share of PyTorch eager: ort fp16 0.50 [0.40, 0.60]."
    assert _texts(tables, "At a glance")[1] == [
        "ort fp16", "4.50", "0.500 [0.400, 0.600]", "222.2", "0.99875", "128",
    ]  # fmt: skip
    assert [row[1] for row in _texts(tables, "By batch")] == ["1", "1", "8", "8"]
    assert _texts(tables, "End to end")[0] == ["ort fp16", "4.50", "4.95", "1.50", "4.25"]
    assert _texts(tables, "Streams")[0] == ["ort fp16", "200.0", "300.0", "0.500 [0.400, 0.600]"]
    assert _texts(tables, "On the GPU")[0][-1] == "77.0"
    assert _texts(tables, "trtexec --useCudaGraph")[0][:2] == ["compute", "4.500"]
    assert _texts(tables, "State of the GPUs")[1] == ["GPU 0, L4", "after", "512", "power cap"]
    assert _texts(tables, "Beside an earlier run, then.json")[0] == [
        "ort fp16 / PyTorch eager", "0.500 [0.400, 9.000]", "0.500 [0.400, 0.600]", "yes",
    ]  # fmt: skip
    assert (shown["warnings"], shown["notes"]) == (["another process ran"], ["few"])


def test_what_was_measured_of_an_engine(latency: dict[str, Any]) -> None:
    latency["artifacts"]["b"] = {"precision": "fp16"}
    latency["latency"]["ort fp16 (b)"] = {**latency["latency"]["ort fp16"], "p50_ms": 7.0}
    latency["ratios"]["ort fp16 (b)"] = {}
    latency["sweep"] = []
    run = describe_latency(latency)
    assert find_measured(run, "a", "trt fp16") == ("GPU compute", 4.5)
    assert find_measured(run, "a", "ort fp16") == ("a call with copies", 4.5)
    assert find_measured(run, "b", "ort fp16") == ("a call with copies", 7.0)
    assert find_measured(run, "b", "trt fp16") is None


def test_every_part_of_a_comparison() -> None:
    class_row = {"name": "red", "iou_reference": 0.5, "iou": None, "iou_delta": -1e-6,
                 "iou_delta_interval": None}  # fmt: skip
    move = {"from": "red", "to": "blue", "pixels": 1234, "share": 0.75}
    near = {"within_pixels": 2, "changed_share": 0.9, "all_share": 0.1}
    layers = [{"name": "x", "op_type": "Add", "relative_rms": 0.5},
              {"name": "y", "op_type": "Mul", "relative_rms": None}]  # fmt: skip
    shown = describe_parity({
        "reference": "r", "data": {"source": "tiles", "size": "16x16"}, "notes": ["few"],
        "artifacts": [{
            "artifact": "x/a", "target": "ort", "pixel_agreement": 0.99, "miou": 0.5,
            "pixel_agreement_interval": [0.98, 0.995], "miou_delta": -0.01,
            "miou_delta_interval": None,
            "classes": [class_row, *({**class_row, "iou_delta": 0.0} for _ in range(30))],
            "changed": {"pixels": 1234, "share": 0.01, "moves": [move],
                        "boundary_distance": [near]},
        }],
        "stability": [{"artifacts": ["x/a", "x/b"], "target": "ort", "pixels_different": 3,
                       "files_different": ["golden.npz"]}],
        "bisect": [{"artifact": "x/a", "target": "ort", "precision": "fp16", "threshold": 1e-3,
                    "images": 1, "first": layers[0], "layers": layers}],
    })  # fmt: skip
    tables = shown["tables"]
    assert _texts(tables, "tiles, 16x16, against r")[0] == [
        "a", "ort", "0.99000 [0.98000, 0.99500]", "0.5000", "-0.0100",
    ]  # fmt: skip
    classes = _texts(tables, "By class: a on ort; 6 that change less are left out")
    assert classes[0] == ["red", "0.5000", "+0.0000"]  # no -0.0000, and no column without values
    assert _texts(tables, "What changed")[0] == ["red", "blue", "1,234", "75.0%"]
    assert _texts(tables, "How near")[0] == ["2 px", "90.0%", "10.0%"]
    assert _texts(tables, "Build to build")[0] == ["a and b", "ort", "golden.npz", "3"]
    bisect = shown["bisect"][0]
    assert bisect["text"].endswith("more than 1.0e-03 (relative RMS) is x, a Add: 5.0e-01.")
    assert _texts([bisect["table"]], "Layers")[0] == ["y", "Mul", "not finite"]
    assert bisect["plot"]["first"] is not None
    assert shown["notes"] == ["few"]


def test_frontier_and_sensitivities(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a", "int8")
    reports = folder / "report"
    assert describe_quantisation(folder, reports, Manifest.read(folder), None) is None
    kept = Point(("head/MatMul",), 1, 0.1, 0.99, 0.2, Speed(1.5, 0.75))
    everything = Point((), 2, 0.2, 0.99, 5.0, Speed(1.25, 0.5))
    setup = SearchSetup("0", "0", "int8", "4 tiles", "0", "L4 at its peaks")
    Frontier(setup, Speed(2.0, 1.0), LAYERS, {}, (kept, everything)).save(tmp_path / "frontier")
    add_files(folder, frontier_json=(tmp_path / "frontier").read_text())
    reports.mkdir()
    write_png(reports / "frontier.png", np.zeros((2, 2, 3), np.uint8))
    measured = {"schema": 1, "groups": 3, "layers": [asdict(layer) for layer in LAYERS],
                "setup": {"scheme": "int8", "by": "layer", "images": "2 tiles"}}  # fmt: skip
    (reports / "sensitivity.json").write_text(json.dumps(measured))
    shown = describe_quantisation(folder, reports, Manifest.read(folder), 0.5)
    assert shown is not None
    searched, alone = shown["blocks"]
    assert searched["text"] == (
        "Searched on 4 tiles, budget 0.5 points of mIoU; speed: L4 at its peaks."
    )
    rows = _texts(searched["tables"], "Frontier")
    assert [row[0] for row in rows] == ["2", "1, built", "0, the float graph"]
    assert rows[1][1:] == ["1", "0.200", "0.99000", "1.500", "0.75"]
    assert [caption for _, caption, _ in searched["pictures"]] == [
        "Frontier: mIoU drop against speed", "Sensitivity by encoder block",
    ]  # fmt: skip
    assert (
        alone["text"] == "INT8, one layer quantised at a time, on 2 tiles; 2 of 3 measured so far."
    )
    assert _texts(alone["tables"], "What costs most")[0] == [
        "encoder/0/fc1/MatMul", "2.5e-01", "0.50000", "1.500",
    ]  # fmt: skip
    (reports / "sensitivity.json").write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="expected schema 1, got 2"):
        describe_quantisation(folder, reports, Manifest.read(folder), None)
    (folder / "frontier.json").write_text("{}")
    with pytest.raises(ManifestError, match="was changed after it was built"):
        describe_quantisation(folder, reports, Manifest.read(folder), None)


def test_a_sweep_with_a_row_that_failed(tmp_path: Path) -> None:
    built = {
        "model": "vit_t", "precision": "fp16", "size": "256x256", "error": None,
        "random_weights": True,
        "build_seconds": 12.0, "peak_gib": 1.25, "onnx_mb": 6.0, "parity": None,
        "engines": [{"engine_mb": 12.0, "kernels": 127, "traffic_mb": 29.0,
                     "estimated_ms": {"L4": 0.25, "T4": None}}],
        "latency": {"ort": {"p50_ms": 4.5}},
    }  # fmt: skip
    failed = {"model": "vit_b", "precision": "int8", "size": "8x8", "error": "no weights"}
    setup = {"gpu": ["L4", "T4"], "rounds": 5, "threads": 2, "num_images": 4}
    path = tmp_path / "sweep.json"
    sweep = {"schema": 2, "machine": {"processor": "a CPU"}, "setup": setup}
    path.write_text(json.dumps({**sweep, "rows": [built, failed]}))
    shown = read_sweep(path)
    assert _texts([shown["table"]], "Models by precisions") == [
        [
            "vit_t (random weights)",
            "fp16",
            "256x256",
            "12",
            "1.2",
            "6.0",
            "12.0",
            "127",
            "29",
            "0.250",
            "4.5",
        ]
    ]
    assert shown["failed"] == ["vit_b int8 8x8 failed: no weights"]
    path.write_text(json.dumps({**sweep, "rows": [failed]}))
    assert read_sweep(path)["table"] is None
    shutil.copy(__file__, path)
    with pytest.raises(ValueError, match=r"sweep.json' is no sweep to show"):
        read_sweep(path)


def test_columns_without_values_are_left_out() -> None:
    table = make_table("t", ("a", "b", "c"), [("x", None, figure(1.0)), ("y", None, None)],
                       ("all", None, figure(2.0)))  # fmt: skip
    assert table is not None
    assert table.columns == ("a", "c")
    assert table.numeric == (False, True)
    assert table.rows[1][1].is_missing
    assert [cell.text for cell in table.total] == ["all", "2.00"]
    assert make_table("t", ("a",), []) is None
