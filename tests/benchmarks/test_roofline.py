"""`benchmarks.roofline`: figures by hand, and operations that equal the papers' to the last one."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from benchmarks.flop_ledger import FlopLedger, make_ledger
from benchmarks.roofline import main
from benchmarks.weightless import write_weightless_graph
from engines.roofline import GPUS, LAUNCH_US
from segvit.config import SegViTConfig, find_variant
from segvit.macs import count_macs
from tests.benchmarks.small_artifacts import KERNELS, PRODUCT_FLOPS, tensor, write_artifact
from tests.tiny_models import make_config, make_dino_config


def test_figures_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_artifact(tmp_path / "a")
    assert main(["--artifact", str(folder), "--gpu", "L4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (engine,) = report["artifacts"]
    product_bytes = 2 * (256 * 3 + 9 + 256 * 3)
    assert (engine["launches"], engine["flops"]) == (2, PRODUCT_FLOPS)
    assert engine["bytes"] == 3000 + product_bytes
    assert engine["flops_by_datatype"] == {"Half": PRODUCT_FLOPS}
    memory_us = [3000 / 300e3, product_bytes / 300e3]  # L4: 300 GB/s, arithmetic far shorter
    assert engine["estimated_ms"]["L4"] == pytest.approx((sum(memory_us) + 2 * LAUNCH_US) / 1e3)
    # A kernel that only transposes is layout, whatever part its node is named after.
    assert {name: part["launches"] for name, part in engine["parts"].items()} == {
        "tail": 1, "layout": 1,
    }  # fmt: skip
    assert [kernel["name"] for kernel in engine["kernels"]] == ["encoder/turn", "tail/mix"]
    assert engine["kernels"][0]["bound"] == {"L4": "launch"}
    assert report["gpus"]["L4"]["source"] == GPUS["L4"].source
    assert report["schema"] == 1
    assert report["limits"]


def test_two_artifacts_are_compared_and_the_file_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_artifact(tmp_path / "a")
    second = write_artifact(tmp_path / "b", kernels=(*KERNELS, KERNELS[0]), model="other")
    out = tmp_path / "out" / "roofline.json"
    assert main(["--artifact", str(first), str(second), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"{second} / {first}:" in text
    assert f"{'launches':24}{1.5:8.3f}" in text
    assert "another model than" in text
    assert set(json.loads(out.read_text())["gpus"]) == set(GPUS)


def test_a_gpu_without_a_datatype_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = (tensor(3, 3, datatype="FP8"),)
    kernels = (KERNELS[0], replace(KERNELS[1], constants=weight))
    folder = write_artifact(tmp_path / "a", "fp8", kernels)
    assert main(["--artifact", str(folder), "--gpu", "T4", "L4"]) == 0
    assert "T4: T4 has no peak for FP8" in capsys.readouterr().out
    with pytest.raises(ValueError, match="cannot be estimated: T4 has no peak for FP8"):
        main(["--artifact", str(folder), "--gpu", "T4"])


def test_artifacts_that_cannot_be_estimated(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    with pytest.raises(ValueError, match=r"no audited trt engine \(audited: trt-rtx\)"):
        main(["--artifact", str(folder), "--target", "trt"])
    opened = replace(KERNELS[0], inputs=(tensor(-1, 10),))
    with pytest.raises(ValueError, match="dynamic batch, so sizes are open"):
        main(["--artifact", str(write_artifact(tmp_path / "b", kernels=(opened,)))])


def test_predicted_against_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = write_artifact(tmp_path / "a"), tmp_path / "latency.json"
    path.write_text(json.dumps({"schema": 1, "latency": {"trt-rtx fp16": {"p50_ms": 2.0}}}))
    options = ["--artifact", str(folder), "--gpu", "L4", "--measured", str(path)]
    assert main(options) == 0
    estimate = (2 * LAUNCH_US + (3000 + 3090) / 300e3) / 1e3
    assert f"{'L4':10}{2.0 / estimate:8.2f}" in capsys.readouterr().out
    path.write_text(json.dumps({"schema": 1, "latency": {"ort fp16": {"p50_ms": 2.0}}}))
    with pytest.raises(ValueError, match="no measurement of these engines, only of ort fp16"):
        main(options)
    path.write_text(json.dumps({"schema": 7}))
    with pytest.raises(ValueError, match="expected schema 1, got 7"):
        main(options)


# A cascade is in the named variant below.
CONFIGS = [
    make_config("shrunk", depth=2, tap_blocks=(0, 1), shrink_block=1),
    make_dino_config("dinov2_reg", "single", depth=2, tap_blocks=(0, 1), decoder_stages=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}-{config.head}")
def test_the_graph_and_what_it_folded_are_what_the_papers_count(
    config: SegViTConfig, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    write_weightless_graph(config, path)
    ledger = make_ledger(path, config)
    assert ledger.accounted == ledger.info
    assert ledger.products > 0.5 * ledger.info
    with pytest.raises(ValueError, match="the papers count at 128x128"):
        make_ledger(path, replace(config, image_size=128, patch_size=16))
    # A product left out shows.
    model = onnx.load(path)
    first = next(node for node in model.graph.node if node.op_type == "MatMul")
    first.op_type = "Unknown"
    onnx.save(model, path)
    assert make_ledger(path, config).accounted < ledger.info


def test_the_command_checks_a_named_variant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--check-info", "vit_t_landcover", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)["accounts"]["vit_t_landcover"]
    assert (
        account["accounted"]
        == account["info"]
        == 2 * sum(count_macs(find_variant("vit_t_landcover")).values())
    )
    off = FlopLedger(98.0, 0.0, 0.0, {}, {}, 100.0)
    monkeypatch.setattr("benchmarks.weightless.write_weightless_graph", lambda *_: None)
    monkeypatch.setattr("benchmarks.roofline.make_ledger", lambda *_: off)
    with pytest.raises(ValueError, match=r"more than 1 %: vit_t_landcover by -2.00%"):
        main(["--check-info", "vit_t_landcover"])
