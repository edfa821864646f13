"""The main job from nothing: build the shipped model, segment three places, compare speeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from segvit.config import LANDCOVER_CLASSES
from segvit.datasets.landcover import NUM_CLASSES, TILE, TILE_PIXELS, Block, LandCover, read_tile
from segvit.images import (
    LegendEntry,
    attach_legend,
    class_shares,
    read_image,
    resize_labels,
    write_png,
)

ARTIFACT = Path("artifacts/vit_t_landcover-256x256-fp16")
FOLDER = Path("segments")
OVERVIEW = FOLDER / "overview.png"
# Rows and columns of the map where each 64-px tile begins; all three are test blocks.
PLACES = {"pyrenees": (686, 2655), "michigan": (655, 1405), "andes": (1436, 1500)}


def main() -> None:
    """Run every step as a user would type it, then print what came out."""
    run("export.build", "--fp16", "--out", ARTIFACT)
    images = write_tiles()
    run("engines.segment", "--artifact", ARTIFACT, *images, "--out", FOLDER)
    run(
        "benchmarks.latency",
        "--artifact",
        ARTIFACT,
        "--target",
        "ort",
        "--out",
        FOLDER / "latency.json",
    )
    draw_overview()
    summarise()


def run(module: str, *arguments: object) -> None:
    """Run one of the project's commands, and stop with it if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n$ python -m {module} {' '.join(map(str, arguments))}", flush=True)
    finished = subprocess.run(command, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def write_tiles() -> list[Path]:
    """Write a tile of each place as a PNG, read the way the model was trained."""
    data = LandCover()
    FOLDER.mkdir(exist_ok=True)
    paths = []
    for name, (top, left) in PLACES.items():
        image, _ = data.crop(Block(top, left, TILE, TILE))
        path = FOLDER / f"{name}.png"
        write_png(path, read_tile(image))
        paths.append(path)
    return paths


def draw_overview() -> None:
    """Write each place's image, its overlay and the true labels side by side."""
    data, gap, side = LandCover(), 6, TILE_PIXELS
    colours = np.array([colour for _, colour in LANDCOVER_CLASSES], np.uint8)
    canvas = np.full((3 * (side + gap) - gap, 3 * (side + gap) - gap, 3), 255, np.uint8)
    found = []
    for row, (name, (top, left)) in enumerate(PLACES.items()):
        labels = cv2.imread(str(FOLDER / f"{name}.labels.png"), cv2.IMREAD_UNCHANGED)
        truth = resize_labels(data.crop(Block(top, left, TILE, TILE))[1], (side, side))
        known = (truth < NUM_CLASSES)[..., None]
        coloured = np.where(known, colours[np.where(known[..., 0], truth, 0)], 128)
        found.append(labels)
        overlay = read_image(FOLDER / f"{name}.overlay.png")[:side, :side]  # its legend is beside
        panels = (read_image(FOLDER / f"{name}.png"), overlay, coloured)
        for column, panel in enumerate(panels):
            y, x = row * (side + gap), column * (side + gap)
            canvas[y : y + side, x : x + side] = panel
    shares = class_shares(np.stack(found), NUM_CLASSES)
    entries = [
        LegendEntry(name, colour, float(share))
        for (name, colour), share in zip(LANDCOVER_CLASSES, shares, strict=True)
    ]
    write_png(OVERVIEW, attach_legend(canvas, entries))


def summarise() -> None:
    """Print what was built, how close it is, how fast, and where the overlays lie."""
    manifest = json.loads((ARTIFACT / "manifest.json").read_text())
    parity, latency = manifest["parity"], json.loads((FOLDER / "latency.json").read_text())
    print(f"\nbuilt {ARTIFACT}: {manifest['model']['name']}, {manifest['precision']}")
    for target in manifest["targets"]:
        print(f"  {target['target']:8} {target['version']:12} {target['file']}")
    for missing in manifest["not_built"]:
        print(f"  {missing['target']:8} not built: {missing['reason']}")
    print(f"\nparity on {parity['details']['source']}")
    rows = {
        "pixels equal to PyTorch": f"{parity['pixel_agreement']:.5f}",
        "mIoU PyTorch": f"{parity['miou_reference']:.4f}",
        "mIoU exported": f"{parity['miou']:.4f}",
        "largest drop of a class": f"{parity['max_class_iou_drop']:.4f}",
        f"pixels kept, {parity['worst_class']}": f"{parity['worst_class_recall']:.4f}",
        "largest score difference": f"{parity['max_score_error']:.1e}",
    }
    for name, value in rows.items():
        print(f"  {name:26}{value:>9}")
    worst = parity["worst_case"]
    print(f"{worst['name']}, on {worst['images']} of the images")
    print(f"  {'pixels equal to PyTorch':26}{worst['pixel_agreement']:>9.5f}")
    print(f"  {'mIoU PyTorch':26}{worst['miou_reference']:>9.4f}")
    print(f"  {'mIoU exported':26}{worst['miou']:>9.4f}")
    for target in manifest["targets"]:
        if audit := target["audit"]:
            datatypes = ", ".join(f"{n} {name}" for name, n in audit["gemm_datatypes"].items())
            print(
                f"\naudit of {target['file']}: {audit['kernels']} kernels, "
                f"{audit['fused_attentions']} of {audit['attentions']} attentions fused, GEMMs "
                f"{datatypes}, {audit['traffic_mb']:.0f} MB moved, "
                f"{audit['activation_mb']:.1f} MB of activations, attention sums in FP32: "
                f"{audit['float_sums']}"
            )
    print("\np50 latency, one interleaved run")
    for name, figures in latency["latency"].items():
        ratio = latency["ratio_to_eager"][name]
        print(f"  {name:26}{figures['p50_ms']:7.1f} ms   {ratio:.2f} of eager")
    print("\noverlays")
    for name in PLACES:
        print(f"  {FOLDER / f'{name}.overlay.png'}")
    print(f"image, overlay and MODIS labels side by side\n  {OVERVIEW}")


if __name__ == "__main__":
    main()
