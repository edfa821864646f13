"""Each published data set in its real layout: two epochs by its recipe, and its evaluation."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from segvit import train
from segvit.config import SegViTConfig
from segvit.evaluate import main as evaluate
from segvit.train import main
from tests.dataset_layouts import write_ade20k, write_coco_stuff10k, write_pascal_context
from tests.tiny_models import make_config


def _config(name: str) -> SegViTConfig:
    return make_config("shrunk" if "shrunk" in name else "cascade", stride=40)


@pytest.mark.parametrize(
    ("recipe", "write", "dataset", "classes"),
    [
        ("ade20k_vit_l", write_ade20k, "ade20k", 150),
        ("coco_stuff10k_vit_l_shrunk", write_coco_stuff10k, "coco_stuff10k", 171),
        ("pascal_context_vit_l", write_pascal_context, "pascal_context", 60),
        ("pascal_context_vit_l", write_pascal_context, "pascal_context_59", 59),
    ],
)
def test_two_epochs_and_an_evaluation(
    recipe: str, write: Callable[[Path], Path], dataset: str, classes: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(train, "find_variant", _config)
    data, out = write(tmp_path), tmp_path / "run"
    where = ["--dataset", dataset, "--data", str(data)]
    options = ["--recipe", recipe, *where, "--batch-size", "2", "--max-steps", "4",
               "--warmup-steps", "1", "--log-every", "1", "--workers", "0", "--device", "cpu",
               "--json"]  # fmt: skip
    assert main([*options, "--out", str(out)]) == 0
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["loss_ce"]) > 0 for row in rows)
    trained = json.loads(capsys.readouterr().out)
    assert evaluate(["--checkpoint", str(out / "last.safetensors"), *where, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["iou"]) == classes
    assert report["miou"] == pytest.approx(trained["miou"], abs=1e-6)
