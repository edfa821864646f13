"""The checkpoints that come with the package."""

from __future__ import annotations

from pathlib import Path

SHIPPED_MODELS = ("vit_t_landcover", "vit_t_shrunk_landcover")
_FOLDER = Path(__file__).parent / "weights"


def shipped_checkpoint(name: str) -> Path:
    """Return the path of a shipped model's weights.

    Raises:
        ValueError: if the model ships without.
    """
    if name not in SHIPPED_MODELS:
        raise ValueError(
            f"model '{name}' ships without weights: give --checkpoint FILE, or --random-weights "
            f"to build without; with weights come {', '.join(SHIPPED_MODELS)}"
        )
    return _FOLDER / f"{name}.safetensors"
