"""What `--device` means: a GPU's number, or one of ONNX Runtime's execution providers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:(cpu)|(cuda|tensorrt)(?::(\d+))?|(\d+))")
AUTO_PROVIDER = "auto"


@dataclass(frozen=True)
class Device:
    """A GPU's number, and the ONNX Runtime provider asked for: `auto` leaves it open."""

    provider: str
    index: int

    def __str__(self) -> str:
        """Return the spelling that `parse_device` reads."""
        if self.provider == AUTO_PROVIDER:
            return str(self.index)
        return self.provider if self.provider == "cpu" else f"{self.provider}:{self.index}"


def parse_device(device: int | str) -> Device:
    """Return the device that a number, `cpu`, `cuda:1` or `tensorrt:0` names.

    Raises:
        ValueError: if it names none.
    """
    match = _FORM.fullmatch(str(device).strip().lower())
    if match is None:
        raise ValueError(f"device '{device}': expected a GPU's number, cpu, cuda:N or tensorrt:N")
    cpu, provider, provider_index, index = match.groups()
    if cpu:
        return Device("cpu", 0)
    if provider:
        return Device(provider, int(provider_index or 0))
    return Device(AUTO_PROVIDER, int(index))
