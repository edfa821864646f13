"""From files to files, by a clock that the engine alone moves on."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from benchmarks.end_to_end import choose_files, measure_end_to_end
from benchmarks.timing import Schedule
from segvit.images import write_png


def test_stages(tmp_path: Path) -> None:
    now, shapes = 0.0, set()

    def infer(images: np.ndarray) -> np.ndarray:
        nonlocal now
        now += 0.25
        shapes.add(images.shape)
        return images[..., 0]

    for name, size in (("a", (40, 30)), ("b", (10, 90))):
        write_png(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    report = measure_end_to_end(
        {"A": infer}, files, (16, 32), 7, Schedule(rounds=3, warm_up_s=0), False, lambda: now
    )
    assert shapes == {(2, 16, 32, 3)}
    assert report["A"]["whole"]["calls"] == 3
    assert report["A"]["whole"]["p50_ms"] == report["A"]["stages_p50_ms"]["infer"] == 250
    assert report["A"]["stages_p50_ms"]["decode"] == 0


def test_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    with ExitStack() as stack:
        assert len(choose_files((), images, stack)) == 3
        write_png(tmp_path / "a.png", images[0])
        assert choose_files((tmp_path,), images, stack) == [tmp_path / "a.png"] * 3
        with pytest.raises(FileNotFoundError, match="no such image"):
            choose_files((tmp_path / "b.png",), images, stack)
