"""Checkpoints of the original implementation, and small traced graphs."""

from __future__ import annotations

import pytest

from segvit.checkpoint import load_checkpoint
from segvit.model import SegViT
from tests.tiny_models import GOLDEN


@pytest.fixture(params=("base_s0", "single_s0", "shrunk_s0"))
def golden_model(request: pytest.FixtureRequest) -> SegViT:
    """A checkpoint of the original implementation, one a head."""
    return load_checkpoint(GOLDEN / f"{request.param}.pth")
