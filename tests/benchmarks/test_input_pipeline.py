"""`benchmarks.input_pipeline`: its report on a few photos, and what it refuses."""

import json
from pathlib import Path

import pytest

from benchmarks.input_pipeline import main
from benchmarks.photos import write_photos
from segvit.cli import run_main

QUICK = ("--photos", "2", "--photo-size", "96x128", "--images", "4", "--batch-size", "2",
         "--rounds", "1")  # fmt: skip


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pipeline.json"
    assert main([*QUICK, "--workers", "1", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    rates = report["images_per_second"]
    assert len(rates) == 3
    assert all(rate > 0 for rate in rates.values())
    pipeline = rates["training batches, 1 workers"]
    for name, ratio in report["ratios"].items():
        assert ratio == pytest.approx(pipeline / rates[name])


def test_photos_are_real_and_pair_with_their_labels(tmp_path: Path) -> None:
    data = write_photos(tmp_path, 3, (100, 120))
    assert len(data) == 3
    for image, mask in data:
        assert image.shape == (100, 120, 3)
        assert mask.shape == (100, 120)
    assert len({image.tobytes() for image, _ in data}) == 3
    with pytest.raises(ValueError, match="expected at most 4 of"):
        write_photos(tmp_path / "more", 5, (1100, 2500))


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--workers", "-1"], "--workers must be at least 0"),
        (["--images", "3", "--batch-size", "8"], "--images must be at least --batch-size"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_main(main, arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
