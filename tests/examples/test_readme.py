"""README.md: every command runs, the Python runs, and every figure is the measured one."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from examples.update_readme import BLOCKS, PAGES, PICTURE, insert_figures
from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import LandCover
from segvit.images import resize_labels
from segvit.shipped import shipped_checkpoint

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
# The same command with less work, and the file it must leave.
SHORTER = {
    "segvit.train": ("--max-steps", "1", "--batch-size", "2", "--device", "cpu"),
    "export.build": ("--num-images", "2", "--num-calibration-images", "16"),
    "benchmarks.precision": ("--num-images", "2"),
    "benchmarks.latency": ("--rounds", "2", "--warm-up", "0"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: weights, photos, their masks and classes."""
    place = tmp_path_factory.mktemp("user")
    shutil.copyfile(shipped_checkpoint("vit_t_landcover"), place / "seg.safetensors")
    for folder in ("photos", "masks", "more-photos"):
        (place / folder).mkdir()
    images, labels = LandCover().sample_images("test", 4, seed=0)
    for index, name in enumerate(("andes", "b", "c", "d")):
        image = cv2.resize(images[index], (304, 200))[..., ::-1]
        if name in ("andes", "b"):
            cv2.imwrite(str(place / "photos" / f"{name}.png"), image)
            mask = resize_labels(labels[index], (200, 304))
            cv2.imwrite(str(place / "masks" / f"{name}.png"), mask)
        else:
            cv2.imwrite(str(place / "more-photos" / f"{name}.png"), image)
    (place / "classes.txt").write_text("\n".join(name for name, _ in LANDCOVER_CLASSES))
    return place


def _run(command: str) -> int:
    """Run `python -m MODULE …` here, where its imports are paid for once; return the exit code."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], command
    code: int = import_module(words[2]).main([*words[3:], *SHORTER.get(words[2], ())])
    return code


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.trt_rtx
def test_commands_run_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, since later ones use what earlier ones made."""
    monkeypatch.chdir(place)
    modules = [command for command in COMMANDS if not command.startswith("make ")]
    assert len(modules) >= 9
    for command in modules:
        assert _run(command) == 0, command
    assert (place / "artifacts" / "mine" / "manifest.json").is_file()
    assert (place / "segments" / "andes.overlay.png").is_file()
    assert (place / "runs" / "landcover" / "best.safetensors").is_file()
    assert (place / "runs" / "mine" / "best.safetensors").is_file()
    assert len(PYTHON) == 1
    finished = subprocess.run(
        [sys.executable, "-c", PYTHON[0]], cwd=place, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("(256, 256) ")


def test_make_targets_exist() -> None:
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        listed = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ".venv" in listed.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_figures_are_the_measured_ones(page: Path) -> None:
    text = page.read_text()
    assert any(f"<!-- {name} -->" in text for name in BLOCKS)
    assert insert_figures(text) == text


def test_picture_is_there() -> None:
    picture = cv2.imread(str(PICTURE))
    assert picture.shape[1] > 700
    assert np.std(picture) > 30


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
