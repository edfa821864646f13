"""The video example, run on clips that the tests write."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.runtime import open_runtime
from examples.segment_video import FrameReader, draw, main, open_source
from segvit.cli import run_main
from tests.triton_server.artifacts import make_artifact

SCRIPT = Path(__file__).parents[2] / "examples" / "segment_video.py"
COUNT, SIZE = 11, (96, 128)  # (height, width)
Artifact = Callable[..., Path]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A function that makes an artifact with a batch."""
    folder = tmp_path_factory.mktemp("artifacts")

    def make(**options: object) -> Path:
        path = folder / "-".join(map(str, ("a", *options.values())))
        return path if path.exists() else make_artifact(path, **options)

    return make


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip whose frames differ plainly from each other."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE[::-1])
    for frame in np.random.default_rng(1).integers(0, 256, (COUNT, 3, 3, 3), np.uint8):
        writer.write(np.asarray(cv2.resize(frame, SIZE[::-1])))
    writer.release()
    return path


def read(path: Path) -> np.ndarray:
    frames = []
    with open_source(str(path)) as capture:
        while (pair := capture.read())[0]:
            frames.append(pair[1])
    return np.stack(frames)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "options", "said"),
    [("batch", (), "2 a call"), (4, ("--instances", 2), "4 a call"), (1, (), "1 a call")],
)
def test_every_frame_comes_out_in_its_place(
    artifact: Artifact, clip: Path, tmp_path: Path, batch: object, options: tuple[object, ...],
    said: str,
) -> None:  # fmt: skip
    folder, out = artifact(batch=batch), tmp_path / "new" / "overlay.avi"
    done = run("--artifact", folder, clip, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    found = re.match(r"(\d+) frames in [\d.]+ s: [\d.]+ frames/s on (.*)\n", done.stdout)
    assert found is not None
    assert found.groups() == (str(COUNT), f"ort, {said}; 0 dropped")
    assert done.stdout.endswith(f"wrote {out}\n")
    written, frames = read(out), read(clip)
    assert written.shape == (COUNT, *SIZE, 3)
    with open_runtime(folder) as runtime:
        small = np.stack([cv2.resize(frame, (64, 64))[..., ::-1] for frame in frames])
        expected = []
        for image, frame in zip(small, frames, strict=True):
            labels = runtime.infer(np.stack([image] * runtime.batch[0]))[0]
            expected.append(draw(frame, labels, runtime.palette).astype(int))
    # The codec is lossy; frames in each other's place are further off by far.
    right = [np.abs(a - b).mean() for a, b in zip(written, expected, strict=True)]
    wrong = [np.abs(a - b).mean() for a, b in zip(written[1:], expected, strict=False)]
    assert max(right) < min(wrong) / 2
    assert [path.name for path in out.parent.iterdir()] == ["overlay.avi"]


def test_frames_bounds_the_run_and_mp4_is_written(
    artifact: Artifact, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "overlay.mp4"
    options = ["--frames", "5", "--batch", "4", "--out", str(out)]
    assert main(["--artifact", str(artifact(batch="batch")), str(clip), *options]) == 0
    assert capsys.readouterr().out.startswith("5 frames in ")
    assert len(read(out)) == 5


def test_drop_keeps_the_newest_frames(artifact: Artifact, clip: Path) -> None:
    frames = read(clip)
    with open_source(str(clip)) as capture, open_runtime(artifact(batch=1)) as runtime:
        reader = FrameReader(capture, runtime, ahead=3, limit=None, drop=True)
        with reader:
            deadline = time.monotonic() + 30
            while reader.dropped < COUNT - 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            kept = [frame for frame, _ in reader]
    assert reader.dropped == COUNT - 3
    assert np.array_equal(np.stack(kept), frames[-3:])


def test_a_reader_that_nobody_reads_ends(artifact: Artifact, clip: Path) -> None:
    with open_source(str(clip)) as capture, open_runtime(artifact(batch=1)) as runtime:
        started = time.monotonic()
        with (
            pytest.raises(ValueError, match="stop"),
            FrameReader(capture, runtime, ahead=1, limit=None, drop=False),
        ):
            raise ValueError("stop")
    assert time.monotonic() - started < 5


def fail(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        run_main(main, [str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_what_cannot_be_done_is_one_line(
    artifact: Artifact, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    folder, scores = artifact(batch=1), artifact(scores=True)
    for arguments, message in (
        ((folder, tmp_path / "none.mp4"), "none.mp4': no such video"),
        ((folder, tmp_path / "text.mp4"), "text.mp4' cannot be opened by OpenCV"),
        ((folder, clip, "--batch", 3), "--batch: the engine takes 1 to 1 images, got 3"),
        ((scores, clip), f"'{scores}' gives scores, not labels"),
        ((folder, clip, "--digest", "a" * 64), f"expected digest {'a' * 64}, got "),
    ):
        assert fail("--artifact", *arguments) == 1
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("--artifact", "a", "b", "--frames", "0") == 2
    assert "--frames: expected at least 1, got 0" in capsys.readouterr().err
    assert fail("--artifact", "a", "b", "--out", "c.gif") == 2
    assert "--out: expected a name in .mp4 or .avi, got 'c.gif'" in capsys.readouterr().err
