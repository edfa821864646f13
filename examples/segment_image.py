"""One image in, its overlay out: `python examples/segment_image.py ARTIFACT IMAGE OVERLAY.png`."""

from segvit_deploy import run_main

import argparse
from collections.abc import Sequence

from engines.runtime import infer_all, open_runtime
from segvit.images import draw_overlay, read_image, resize_image, resize_labels, write_png


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the image, at the engine's size, and draw its labels at the image's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("artifact", "image", "overlay"):
        parser.add_argument(name)
    arguments = parser.parse_args(argv)
    with open_runtime(arguments.artifact) as runtime:
        image = read_image(arguments.image)  # RGB, uint8 (H, W, 3)
        height, width = map(int, runtime.input.shape[1:3])
        labels = infer_all(runtime, resize_image(image, (height, width))[None])[0]  # (h, w)
        labels = resize_labels(labels, image.shape[:2])
        write_png(arguments.overlay, draw_overlay(image, labels, runtime.classes, runtime.palette))
    print(f"wrote {arguments.overlay}")
    return 0


if __name__ == "__main__":
    run_main(main)
