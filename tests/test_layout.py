"""The house rules a machine can check."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CEILING = 400  # lines a file
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers", "base", "manager"}
PACKAGES = ("segvit", "export", "calibration", "engines", "benchmarks")


def _tracked(suffix: str = "") -> list[Path]:
    """Return the repository's files, or outside of a checkout those that look like it."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split("\n") if listed.returncode == 0 else []
    paths = [ROOT / name for name in names if name] or [
        path for package in (*PACKAGES, "tests", "docs") for path in (ROOT / package).rglob("*.*")
    ]
    return [path for path in paths if path.suffix.endswith(suffix) and path.is_file()]


MODULES = [path.relative_to(ROOT) for path in _tracked(".py")]


def test_modules_are_found() -> None:
    assert len(MODULES) > 60


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_are_short_and_well_named(module: Path) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= CEILING
    assert module.stem not in FORBIDDEN_NAMES
    assert len(module.parts) <= 4


def test_package_files_are_empty() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            if path.parent.name != "passes":
                assert path.read_text() == "", path


def test_entry_points_alone_print() -> None:
    for module in MODULES:
        text = (ROOT / module).read_text()
        if module.parts[0] in PACKAGES and re.search(r"^\s*print\(", text, re.MULTILINE):
            assert "run_main(main)" in text or module.stem == "cli", module


def test_every_entry_point_shows_an_example() -> None:
    for module in MODULES:
        text = (ROOT / module).read_text()
        if module.parts[0] in PACKAGES and "run_main(main)" in text:
            options = (ROOT / module).with_name(f"{module.stem}_options.py")
            assert "example:\n" in text + (options.read_text() if options.exists() else ""), module


def test_nothing_points_outside_of_the_project() -> None:
    """No path of one machine, and nothing read from beside the project."""
    pattern = re.compile(r"/(?:work|home|root|Users)/[\w.]")
    for path in _tracked():
        if path.suffix in {".py", ".md", ".toml", ".json", ".csv", ".yaml", ".sh", ""}:
            text = path.read_text(errors="ignore")
            assert not pattern.search(text), path
