"""Encoders in DINOv2's and DINOv3's style compile with every attention fused."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from engines.audit import Audit, audit_engine, check_audit
from engines.target import Target
from engines.trt_builder import build_engine
from export.deploy import DeployModel
from export.passes import deploy_passes
from export.trace import trace_model
from segvit.config import SegViTConfig
from tests.tiny_models import make_config, make_dino_config, make_model

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx
# Heads of 32 channels, as small as any variant's, and little else.
DEPTH = 2
SMALL: dict[str, object] = {
    "embed_dim": 96,
    "depth": DEPTH,
    "tap_blocks": (0, 1),
    "decoder_layers": 1,
    "patch_size": 14,
    "image_size": 112,
}


def _audit(config: SegViTConfig, folder: Path) -> Audit:
    size = (config.image_size, config.image_size)
    graph = trace_model(DeployModel(make_model(config), size), size, 1)
    for graph_pass in deploy_passes("fp16"):
        graph_pass(graph)
    path = folder / f"{config.name}.onnx"
    ir.save(graph, path)
    return audit_engine(build_engine(path, Target.TRT_RTX, ("SM89",), progress=False), path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """The same model with a plain ViT."""
    return _audit(make_config(**SMALL), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("style", ["dinov2", "dinov3"])
def test_every_attention_fuses(style: str, plain: Audit, tmp_path: Path) -> None:
    """A DINOv2 block costs what a ViT block does, a DINOv3 block two kernels more."""
    audit = _audit(make_dino_config(style, **SMALL), tmp_path)
    check_audit(audit, "fp16")
    # One a block and two a stage, but for the first self-attention, which is folded.
    assert audit.attentions == audit.fused_attentions == DEPTH + 3
    more = {"encoder": 2 * DEPTH if style == "dinov3" else 0}
    assert {name: part.kernels for name, part in audit.parts.items()} == {
        name: part.kernels + more.get(name, 0) for name, part in plain.parts.items()
    }
