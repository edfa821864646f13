"""`python -m segvit.info`: parameters and multiply-accumulates of a model, by part."""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segvit.checkpoint import build_keys, load_checkpoint
from segvit.config import VARIANTS, SegViTConfig, find_variant
from segvit.macs import count_macs
from segvit.shipped import SHIPPED_MODELS

_EPILOG = """\
example:
  python -m segvit.info --model vit_l_shrunk_ade20k --json
"""
_PARTS = {"backbone.patch_embed.": "patch_embed", "backbone.blocks.": "blocks",
          "backbone.": "embeddings", "decode_head.": "decode_head"}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print what a model costs."""
    arguments = _parse_arguments(argv)
    if arguments.list:
        reports = [describe_model(config) for config in VARIANTS.values()]
        print(json.dumps(reports) if arguments.json else _format_list(reports))
        return 0
    config = find_variant(arguments.model)
    weights = None
    if arguments.checkpoint:
        model = load_checkpoint(arguments.checkpoint)
        config, weights = model.config, model.provenance
    if arguments.num_classes is not None:
        config = replace(config, num_classes=arguments.num_classes, class_names=(), palette=())
    report = describe_model(config)
    if weights:
        report["checkpoint"] = {"sha256": weights.sha256, "licence": weights.licence}
    print(json.dumps(report) if arguments.json else _format_report(report))
    return 0


def describe_model(config: SegViTConfig) -> dict[str, Any]:
    """Return name, head, sizes, parameters and MACs by part."""
    parameters = dict.fromkeys(_PARTS.values(), 0)
    for key, shape in build_keys(config).items():
        part = next(name for prefix, name in _PARTS.items() if key.startswith(prefix))
        parameters[part] += shape.numel()
    macs = count_macs(config)
    return {
        "model": config.name,
        "head": config.head,
        "image_size": config.image_size,
        "num_classes": config.num_classes,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "tap_blocks": list(config.tap_blocks),
        "shrink_block": config.shrink_block,
        "patch_size": config.patch_size,
        "prefix_tokens": config.num_prefix,
        "position": config.position,
        "layer_scale": config.layer_scale,
        "parameters": {"total": sum(parameters.values()), **parameters},
        "macs": {"total": sum(macs.values()), **macs},
    }


def _format_report(report: dict[str, Any]) -> str:
    """Return the report as text, a line a part."""
    shrinks = report["shrink_block"]
    prefix = report["prefix_tokens"]
    kept = f", {prefix} prefix token{'s' if prefix > 1 else ''}, {report['position']} positions"
    lines = [
        f"{report['model']}: ViT of width {report['embed_dim']}, {report['depth']} blocks, taps "
        f"after {', '.join(map(str, report['tap_blocks']))}, {report['head']} head, "
        f"{report['num_classes']} classes, {report['image_size']} px"
        + ("" if shrinks is None else f", downsampled in block {shrinks}")
        + (kept if prefix else ""),
        f"{'':18}{'parameters':>14}{'GMAC':>10}",
    ]
    names = dict.fromkeys([*report["parameters"], *report["macs"]])
    for name in [name for name in names if name != "total"] + ["total"]:
        count, macs = report["parameters"].get(name), report["macs"].get(name)
        lines.append(
            f"{name:18}{'' if count is None else format(count, ','):>14}"
            f"{'' if macs is None else format(macs / 1e9, '.3f'):>10}"
        )
    if "checkpoint" in report:
        weights = report["checkpoint"]
        lines.append(f"weights: sha256 {weights['sha256']}, licence: {weights['licence']}")
    return "\n".join(lines)


def _format_list(reports: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'model':30}{'px':>5}{'classes':>9}{'parameters':>14}{'GMAC':>10}"]
    lines += [
        f"{report['model']:30}{report['image_size']:5}{report['num_classes']:9}"
        f"{report['parameters']['total']:14,}{report['macs']['total'] / 1e9:10.3f}"
        for report in reports
    ]
    return "\n".join(lines)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m segvit.info",
        description="Print a model's parameters and multiply-accumulates, by part.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", choices=list(VARIANTS), default=SHIPPED_MODELS[0],
                        metavar="NAME", help="a named variant (default %(default)s)")  # fmt: skip
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="the model of a file")
    source.add_argument("--list", action="store_true", help="all named variants, a line each")
    parser.add_argument("--num-classes", type=int, metavar="N", help="instead of the model's own")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
