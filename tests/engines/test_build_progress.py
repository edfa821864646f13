from __future__ import annotations

import pytest

from engines.build_progress import BuildProgress


def test_nested_phases_share_their_parents_step() -> None:
    state = BuildProgress()
    assert state.percent() == 0
    state.start("build", None, 4)
    assert state.step("build", 0)
    assert state.percent() == pytest.approx(25)
    state.start("tactics", "build", 2)
    assert state.phase() == "tactics"
    assert state.step("tactics", 0)
    assert state.percent() == pytest.approx(25 + 25 / 2)
    state.finish("tactics")
    assert state.step("build", 3)
    assert state.percent() == pytest.approx(100)
    state.finish("build")
    assert state.percent() == 100
    assert state.phase() == ""


def test_cancelling_tells_the_builder_at_its_next_step() -> None:
    state = BuildProgress()
    state.start("build", None, 4)
    assert state.step("build", 0)
    state.cancel()
    assert not state.step("build", 1)
    assert state.phase() == "stopping after this step"


def test_odd_reports_do_no_harm() -> None:
    """Callbacks run under C++, which an exception would end."""
    state = BuildProgress()
    state.finish("never began")
    assert state.step("never began", 3)
    state.start("empty", "nobody", 0)
    state.step("empty", 7)
    assert state.percent() == 100
