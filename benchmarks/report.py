"""`python -m benchmarks.report`: one page about artifacts that opens from disk."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.report_artifact import Shown
from benchmarks.report_data import Sources, gather
from engines.roofline import DEFAULT_GPU, GPUS
from segvit.atomic import write_bytes

REPORT_NAME = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_EPILOG = """\
example:
  python -m benchmarks.report --artifact artifacts/vit_t_landcover-256x256-fp16
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of artifacts, a section for each model."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parse_arguments(argv)
    folders: list[Path] = arguments.artifact
    context = gather(
        folders,
        Sources(tuple(arguments.latency), tuple(arguments.parity), arguments.sweep),
        Shown(arguments.target, arguments.num_pictures, tuple(arguments.gpu), arguments.top),
    )
    out: Path = arguments.out or folders[0] / REPORT_NAME
    page = render(context, shlex.join(["python", "-m", "benchmarks.report", *map(str, words)]))
    write_bytes(out, page.encode())
    verdicts = {artifact["name"]: artifact["verdict"]
                for model in context["models"] for artifact in model["artifacts"]}  # fmt: skip
    if arguments.json:
        print(json.dumps({"report": str(out), "verdicts": verdicts}, indent=2))
        return 0
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict['word']}: {verdict['text']}")
    for model in context["models"]:
        for missing in model["missing"]:
            print(f"not measured yet: {missing}")
    print(f"wrote {out}: {len(page) / 1e6:.1f} MB")
    return 0


def render(context: dict[str, Any], command: str) -> str:
    """Return the page; whatever comes from an artifact is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        **context,
        command=command,
        version=version("segvit-deploy"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="Write one self-contained HTML page about artifacts, a section for each model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifact", type=Path, nargs="+", required=True, metavar="DIR")
    for name in ("latency", "parity"):
        parser.add_argument(
            f"--{name}",
            type=Path,
            nargs="+",
            default=(),
            metavar="FILE",
            help=f"of benchmarks.{name} (default: report/{name}.json in each DIR)",
        )
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="of benchmarks.sweep")
    parser.add_argument("--target", default="auto", help="whose labels are shown (default: auto)")
    parser.add_argument("--gpu", nargs="+", choices=list(GPUS), metavar="NAME",
                        default=[DEFAULT_GPU, *(name for name in GPUS if name != DEFAULT_GPU)],
                        help="to estimate for, longest kernels on the first (default: "
                        f"{DEFAULT_GPU} and all others)")  # fmt: skip
    parser.add_argument("--num-pictures", type=int, default=3, metavar="N")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="longest kernels shown")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help=f"default: {REPORT_NAME} in the first artifact")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.num_pictures < 1 or arguments.top < 1:
        parser.error("--num-pictures and --top must be at least 1")
    return arguments


if __name__ == "__main__":
    run_main(main)
