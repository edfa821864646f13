"""The slide graph and the loop over windows: equal labels, and both measured."""

import json
from pathlib import Path

import pytest

from benchmarks.slide import GRAPH, LOOP, main
from export.build import main as build
from tests.tolerances import SLIDE_LABELS


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("slide")
    shared = ["--fp32", "--target", "ort", "--num-images", "1"]
    slide = ["--mode", "slide", "--image-size", "256x320", "--out", str(folder / "slide")]
    assert build([*shared, *slide]) == 0
    assert build([*shared, "--output", "scores", "--out", str(folder / "scores")]) == 0
    return folder / "slide", folder / "scores"


@pytest.mark.slow
def test_graph_and_loop_are_compared(
    artifacts: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    slide, scores = (str(path) for path in artifacts)
    shared = ["--rounds", "2", "--warm-up", "0", "--out", str(tmp_path / "slide.json")]
    assert main(["--artifact", slide, "--scores", scores, "--json", *shared]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "slide.json").read_text()) == report
    assert report["image_size"] == [256, 320]
    assert report["labels_equal"] >= SLIDE_LABELS
    assert report["latency"][GRAPH]["calls"] == 2
    assert min(report["peak_mib"][name] for name in (GRAPH, LOOP)) > 100
    assert report["graph_to_loop"] > 0


@pytest.mark.slow
def test_artifacts_that_do_not_belong_together(artifacts: tuple[Path, Path]) -> None:
    slide, scores = (str(path) for path in artifacts)
    with pytest.raises(ValueError, match="takes whole images; build it with --mode slide"):
        main(["--artifact", scores, "--scores", scores])
    with pytest.raises(ValueError, match="expected scores of one 256x256 window, got labels"):
        main(["--artifact", slide, "--scores", slide])
