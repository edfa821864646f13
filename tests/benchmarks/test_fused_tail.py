"""`benchmarks.fused_tail` compiles for real, and says that it timed nothing where no GPU is."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.fused_tail import PLAIN, describe_tail, main, time_on_gpu
from engines.fused_tail import TailShape
from export.deploy import DeployModel
from segvit.config import find_variant
from segvit.model import build_model

pytest.importorskip("triton", reason="the extra fused-tail is not installed")
OPTIONS = ["--model", "vit_t_landcover", "--compute-capability", "SM89"]


def test_the_report_and_the_kernels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, kernels = tmp_path / "tail.json", tmp_path / "kernels"
    assert main([*OPTIONS, "--out", str(out), "--kernels", str(kernels), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == report
    assert report["kernels"]["SM89"]["spilled_bytes"] == 0
    assert report["bytes"]["fused"] < report["bytes"]["plain"] / 10
    size = report["kernels"]["SM89"]["cubin_bytes"]
    assert (kernels / "fused_tail_sm89.cubin").stat().st_size == size
    assert ".target sm_89" in (kernels / "fused_tail_sm89.ptx").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(OPTIONS) == 0
    assert "PyTorch finds no NVIDIA GPU here" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_with_a_gpu_it_times_equal_labels() -> None:
    found = time_on_gpu(TailShape(20, 21, 24, (4, 4), (64, 64)), "fp32", 2, 3)
    assert set(found["gpu_ms"]) == set(found["labels_equal"])
    assert min(found["labels_equal"].values()) >= 0.999
    assert PLAIN in found["gpu_ms"]


def test_the_shape_is_that_of_the_model() -> None:
    config = find_variant("vit_t_landcover")
    model = DeployModel(build_model(config), (config.image_size, config.image_size))
    image = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        classes, masks = model.find_masks(image)
    shape = describe_tail(config)
    assert classes.shape[1:] == (shape.queries, shape.padded_classes)
    assert masks.shape[2] == shape.grid[0] * shape.grid[1]
    assert model.tail(classes, masks).shape[1:] == shape.size
