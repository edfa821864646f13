"""What command lines of several entry points share; how they end is in `segvit_deploy`."""

from __future__ import annotations

from segvit_deploy import describe_error, run_main

import argparse

__all__ = ["describe_error", "parse_batch", "parse_size", "run_main"]


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `512` or `512x1024`; an argparse type."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels such as 512x512, got '{text}'")
    return int(parts[0]), int(parts[-1])


def parse_batch(text: str) -> tuple[int, int, int]:
    """Return (min, opt, max) of `4` or `1:4:8`; an argparse type."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected N or MIN:OPT:MAX, got '{text}'")
    smallest, typical, largest = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    if not 1 <= smallest <= typical <= largest:
        raise argparse.ArgumentTypeError(f"expected 1 <= MIN <= OPT <= MAX, got '{text}'")
    return smallest, typical, largest
