"""Every entry point on a machine with one extra: it works, or says in one line what to install."""

from __future__ import annotations

from segvit_deploy import COMMANDS, DISTRIBUTION

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ONE_LINE = re.compile(
    r"error: \w+ is not installed; install it with: pip install 'segvit-deploy\[[\w-]+\]'\n"
)
EXTRAS = (
    "",
    "train",
    "export",
    "ort",
    "openvino",
    "trt",
    "trt-rtx",
    "serve",
    "bench",
    "prepare",
    "demo",
)
# What works with an extra alone, beside what works without any.
ANYWHERE = {"engines.segment", "export.triton", "segvit.evaluate", "benchmarks.latency"}
WORKS = {
    "train": {"segvit.train", "segvit.info", "segvit.datasets.prepare"},
    "export": {"export.build", "calibration.quantize", "calibration.sensitivity", "segvit.info"},
    "trt": {"engines.build"},
    "trt-rtx": {"engines.build"},
}


def _entry_points() -> list[str]:
    """Return the modules of the five packages that are programs."""
    found = []
    for package in ("segvit", "export", "engines", "calibration", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "run_main(main)" in path.read_text():
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


@cache
def _requirements(distribution: str, extra: str = "") -> frozenset[str]:
    """Return the names of a distribution's own requirements, those of one extra included."""
    try:
        lines = requires(distribution) or ()
    except ModuleNotFoundError:
        return frozenset()  # not installed here, as tensorrt
    parsed = map(Requirement, lines)
    return frozenset(
        canonicalize_name(r.name)
        for r in parsed
        if not r.marker or r.marker.evaluate({"extra": extra})
    )


def _blocked_modules(extra: str) -> list[str]:
    """Return the top-level modules that an installation with one extra lacks."""
    wanted: set[str] = {DISTRIBUTION}
    todo = set(_requirements(DISTRIBUTION, extra))
    while todo:
        name = todo.pop()
        wanted.add(name)
        todo |= _requirements(name) - wanted
    return [
        top
        for top, names in packages_distributions().items()
        if not wanted & {canonicalize_name(name) for name in names}
    ]


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra or "none")
def test_every_entry_point_works_or_names_the_extra(extra: str) -> None:
    modules = _entry_points()
    assert {module for module, _ in COMMANDS.values()} <= set(modules)
    blocked = json.dumps(_blocked_modules(extra))
    command = [sys.executable, ROOT / "tests" / "entry_points.py", blocked, *modules]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for module, (code, said) in results.items():
        if code == 0:
            assert said.startswith("usage: python -m "), module
        else:
            assert (code, bool(ONE_LINE.fullmatch(said))) == (1, True), (module, said)
    works = {module for module, (code, _) in results.items() if code == 0}
    assert ANYWHERE | WORKS.get(extra, set()) <= works
