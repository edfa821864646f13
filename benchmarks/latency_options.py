"""The arguments of `python -m benchmarks.latency`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import NO_PEERS, PEERS
from engines.target import AUTO, Target

_EPILOG = """\
example:
  python -m benchmarks.latency --artifact artifacts/vit_t_landcover-256x256-fp16 \\
      --vs eager,ort,openvino --duration 10 --out latency.json
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; wrong ones end the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Time artifacts of one model and what one would use instead: in turns, with "
        "ratios paired by round, their intervals, and labels compared.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--artifact", type=Path, nargs="+", required=True, metavar="DIR", help="of one model")
    add("--vs", type=_parse_peers, default=("eager",), metavar="PEER,…",
        help=f"{', '.join(PEERS)} or {NO_PEERS} (default eager); ort and openvino run the first "
        "artifact")  # fmt: skip
    add("--target", nargs="+", choices=[AUTO, *Target], default=[AUTO], metavar="NAME",
        help=f"{', '.join(Target)}: each artifact on all of them that it has; or {AUTO}, its best "
        "(default)")  # fmt: skip
    add("--batch", type=int, nargs="+", metavar="N", help="images a call, each measured in turn "
        "(default: the artifact's typical)")  # fmt: skip
    add("--checkpoint", type=Path, metavar="FILE", help="PyTorch's weights")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=int, default=50, help="calls of each (default 50)")
    length.add_argument("--duration", type=float, metavar="SECONDS", help="of all rounds together, "
                        "10 rounds at least")  # fmt: skip
    add("--warm-up", type=float, default=0.5, metavar="SECONDS", help="of each (default 0.5)")
    add("--threads", type=int, default=2, help="CPU threads (default 2)")
    add("--streams", type=int, default=1, metavar="N", help="also the throughput of N calls at "
        "once on N instances")  # fmt: skip
    add("--end-to-end", action="store_true", help="also from image files to label files")
    add("--images", type=Path, nargs="+", default=(), metavar="IMAGE", help="files, folders or "
        "globs for --end-to-end (default: the artifact's own, as PNG)")  # fmt: skip
    add("--pin", action="store_true", help="keep to as many cores as --threads")
    add("--no-memory", action="store_true", help="leave out peak memory, a process for each")
    add("--against", type=Path, metavar="FILE", help="an earlier result: do intervals overlap?")
    add("--seed", type=int, default=0, help="of the order and the resampling (default 0)")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON only")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    counts = (arguments.rounds, arguments.threads, arguments.streams, *(arguments.batch or ()))
    if min(counts) < 1:
        parser.error("--rounds, --threads, --streams and --batch must be at least 1")
    if arguments.warm_up < 0 or (arguments.duration is not None and arguments.duration <= 0):
        parser.error("--duration must be above 0, --warm-up not below")
    if arguments.images and not arguments.end_to_end:
        parser.error("--images is for --end-to-end")
    return arguments


def _parse_peers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == (NO_PEERS,):
        return ()
    for name in names:
        if name not in PEERS:
            known = ", ".join((*PEERS, NO_PEERS))
            raise argparse.ArgumentTypeError(f"'{name}' is unknown; expected one of: {known}")
    return names
