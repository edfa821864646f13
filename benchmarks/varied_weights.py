"""`python -m benchmarks.varied_weights`: random weights under which labels vary.

With a model as it is initialised, every query predicts the same classes and no mask has an edge:
one label covers every image, and any two programs agree. Here comparing labels says something.
"""

from __future__ import annotations

from segvit_deploy import run_main

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from segvit.atm import AtmAttention, DecoderLayer, Prediction
from segvit.checkpoint import save_checkpoint
from segvit.config import VARIANTS, find_variant
from segvit.model import SegViT, build_model

_EPILOG = """\
example:
  python -m benchmarks.varied_weights --model vit_b_ade20k --out vit_b_ade20k.safetensors
"""
_MASK_STD = 2.0  # of the mask logits over patches
_RESIDUAL_SCALE = 0.1  # of what a decoder layer adds to its queries: they stay different
# As of a trained model on most images: few queries find their class, the others "no object".
_PRESENT, _CLASS_LOGIT = 8, 8.0


def main(argv: Sequence[str] | None = None) -> int:
    """Write the checkpoint; return the exit code."""
    arguments = _parse_arguments(argv)
    write_varied_checkpoint(arguments.model, arguments.out, arguments.seed)
    print(f"wrote {arguments.out}")
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.varied_weights",
        description="Write a checkpoint with random weights whose labels vary over an image.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(VARIANTS), required=True, metavar="NAME",
                        help=f"one of: {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser.parse_args(argv)


def write_varied_checkpoint(model: str, path: Path, seed: int = 0) -> None:
    """Write a checkpoint of a variant with random weights whose labels vary over an image.

    Raises:
        ValueError: if there is no such variant.
    """
    config = find_variant(model)
    torch.manual_seed(seed)
    network = build_model(config)
    side = config.image_size
    vary_labels(network, torch.randn(1, 3, side, side))
    save_checkpoint(network, path)


def vary_labels(model: SegViT, image: Tensor) -> None:
    """Fit the decoder's random weights, in place, so that masks have edges and queries classes.

    Args:
        model: as initialised.
        image: normalised `(1, 3, H, W)`, which the scales are taken of.
    """
    layers = [m for m in model.decode_head.modules() if isinstance(m, DecoderLayer)]
    classifier = next(
        m for name, m in model.decode_head.named_modules() if name.endswith("class_embed")
    )
    assert isinstance(classifier, nn.Linear)
    queries: list[Tensor] = []
    with torch.no_grad():
        for layer in layers:
            for linear in (layer.self_attn.proj, layer.cross_attn.proj, layer.linear2):
                linear.weight.mul_(_RESIDUAL_SCALE)
        scale = _MASK_STD / _predict(model, image).mask_logits.std(dim=(2, 3)).mean()
        for attention in (layer.cross_attn for layer in layers):
            if isinstance(attention, AtmAttention):
                attention.q.weight.mul_(scale.sqrt())
                attention.k.weight.mul_(scale.sqrt())
        hook = classifier.register_forward_pre_hook(lambda _, inputs: queries.append(inputs[0][0]))
        _predict(model, image)
        hook.remove()
        wanted = torch.zeros(len(queries[-1]), classifier.out_features)  # (Q, K + 1)
        wanted[:, -1] = _CLASS_LOGIT
        present = torch.linspace(0, len(wanted) - 1, min(_PRESENT, len(wanted))).long()
        wanted[present, -1] = 0.0
        wanted[present, present] = _CLASS_LOGIT
        classifier.weight.copy_((torch.linalg.pinv(queries[-1]) @ wanted).T)


def _predict(model: SegViT, image: Tensor) -> Prediction:
    predictions: list[Prediction] = model.decode_head(model.backbone(image))
    return predictions[-1]


if __name__ == "__main__":
    run_main(main)
