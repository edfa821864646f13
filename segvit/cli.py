"""What command lines of several entry points share; how they end is in `segvit_deploy`."""

from __future__ import annotations

from segvit_deploy import describe_error, run_main

import argparse

__all__ = ["describe_error", "parse_size", "run_main"]


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `512` or `512x1024`; an argparse type."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels such as 512x512, got '{text}'")
    return int(parts[0]), int(parts[-1])
