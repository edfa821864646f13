"""`benchmarks.report`: what it says, that it escapes, and that a browser takes it silently."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.report import main
from benchmarks.report_data import judge
from benchmarks.report_plots import choose_step, plot_latencies
from benchmarks.timing import summarise
from export.manifest import Manifest, ManifestError
from tests.benchmarks.small_artifacts import add_files, write_artifact

HOSTILE = '<script>alert("x")</script>'
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def _write_results(folder: Path, class_name: str = "red") -> None:
    samples = {"PyTorch eager": [8.0, 9.0, 10.0, 11.0], "ort fp16": [4.0, 4.0, 5.0, 6.0]}
    interval = {"ratio": 0.49, "low": 0.44, "high": 0.55, "rounds": 4, "confidence": 0.95}
    latency = {
        "schema": 1, "command": "python -m benchmarks.latency …",
        "machine": {"processor": "a CPU"}, "threads": 2, "batch": 1, "rounds": 4,
        "order": "interleaved", "samples_ms": samples, "warnings": ["another process ran"],
        "latency": {name: asdict(summarise(values)) for name, values in samples.items()},
        "ratios": {"PyTorch eager": {}, "ort fp16": {"PyTorch eager": interval}},
    }  # fmt: skip
    classes = [{"name": class_name, "iou_reference": 0.5, "iou": None, "iou_delta": -0.25,
                "iou_delta_interval": [-0.3, -0.2]}]  # fmt: skip
    artifact = {
        "artifact": "a", "target": "ort", "pixel_agreement": 0.99, "miou": 0.5,
        "pixel_agreement_interval": [0.98, 0.995], "miou_delta": -0.01,
        "miou_delta_interval": None, "classes": classes,
    }  # fmt: skip
    parity = {"schema": 1, "reference": "r", "data": {"images": 9, "source": "tiles"},
              "notes": ["few"], "artifacts": [artifact]}  # fmt: skip
    (folder / "report").mkdir()
    (folder / "report" / "latency.json").write_text(json.dumps(latency))
    (folder / "report" / "parity.json").write_text(json.dumps(parity))


def _build(folder: Path, *options: str) -> str:
    assert main(["--artifact", str(folder), *options]) == 0
    return (folder / "report.html").read_text()


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A page with every section, all of whose class names are hostile."""
    folder = write_artifact(tmp_path / "a", classes=(HOSTILE, "g</style>", 'b" onload="x'))
    product = {"tail/mix": {"asked": "Half", "obtained": "Float"}}
    add_files(folder, build_json=json.dumps({"engine": product}))
    _write_results(folder, HOSTILE)
    return _build(folder)


def test_sections_and_figures(page: str) -> None:
    for section in ("built", "precision", "parity", "pictures", "latency", "roofline",
                    "licences", "reproduce"):  # fmt: skip
        assert f'<section id="{section}"' in page
    assert "<strong>Pass</strong> FP16 labels 99.950% of pixels" in page
    assert "<code>tail/mix</code> (Half → Float)" in page
    assert '0.99000 <span class="interval">[0.98000, 0.99500]</span>' in page
    assert '0.490 <span class="interval">[0.440, 0.550]</span>' in page
    assert "ort fp16: median 4.50 ms" in page
    assert "Disagreement: 32 pixels (12.500 %)" in page
    assert "python -m export.build --fp16" in page
    assert "Weights of a: Apache-2.0" in page
    assert "2 launches" in page


def test_hostile_names_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script") == page.count("</script") == 1
    assert "g</style>" not in page
    assert 'onload="' not in page


def test_nothing_is_requested_and_every_picture_is_inside(page: str) -> None:
    assert not re.search(r"https?://|//\w+\.|@import|url\(", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source.split(":")[0] for source in sources if not source.startswith("#")} == {"data"}
    pictures = [source for source in sources if source.startswith("data:image/png")]
    assert len(pictures) == 2 * 6  # of two images: the slider's two and four panels
    data = base64.b64decode(pictures[-1].partition(",")[2])
    marked = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert marked.shape == (16, 16, 3)


def test_controls_and_figures_have_names(page: str) -> None:
    sliders = re.findall(r'<input type="range"[^>]*>', page)
    assert sliders
    assert all("aria-label=" in slider for slider in sliders)
    assert all("alt=" in picture for picture in re.findall(r"<img [^>]*>", page))
    assert page.count("<caption>") == page.count("<table>")
    assert '<html lang="en">' in page


def test_a_bare_artifact_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_artifact(tmp_path / "a")
    page = _build(folder, "--target", "trt")
    assert "Not measured yet" in page
    assert "no engine of it was audited" in page
    assert "none runs here" in page
    assert "Disagreement" not in page
    assert "not measured yet: python -m benchmarks.latency" in capsys.readouterr().out


def test_predicted_against_measured(tmp_path: Path, page: str) -> None:
    assert "this engine was not measured" in page
    path = tmp_path / "a" / "report" / "latency.json"
    result = json.loads(path.read_text())
    result["latency"]["trt-rtx fp16"] = result["latency"].pop("ort fp16")
    path.write_text(json.dumps(result))
    measured = _build(tmp_path / "a", "--gpu", "L4")
    estimate_ms = 2 * 1.5e-3 + (3000 + 3090) / 300e6  # two launches, bytes at 300 GB/s
    assert f"median 4.500 ms with copies; that is, of the estimate: L4 {4.5 / estimate_ms:.2f}" in (
        measured
    )


def test_bad_input(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    other = write_artifact(tmp_path / "b", model="other")
    with pytest.raises(ValueError, match=r"holds other, .* one report is of one model"):
        main(["--artifact", str(folder), str(other)])
    for name in ("latency", "parity"):
        old = tmp_path / f"{name}.json"
        old.write_text('{"schema": 99}')
        with pytest.raises(ValueError, match="expected schema 1, got 99"):
            main(["--artifact", str(folder), f"--{name}", str(old)])
    (folder / "golden.npz").write_bytes(b"changed")
    with pytest.raises(ManifestError, match="was changed after it was built"):
        main(["--artifact", str(folder)])


def test_the_verdict_is_the_gates(tmp_path: Path) -> None:
    manifest = Manifest.read(write_artifact(tmp_path / "a"))
    assert judge(manifest)["word"] == "Pass"
    assert judge(Manifest.read(write_artifact(tmp_path / "b", "fp32")))["word"] == "Fail"


def test_plots_start_at_zero_and_end_at_the_largest_p99() -> None:
    plot = plot_latencies({"a": [10.0] * 99 + [1000.0], "b": [5.0] * 100})
    assert plot is not None
    first, second = plot["rows"]
    assert (first["beyond"], second["beyond"]) == (1, 0)
    assert second["p50"]["x"] < first["p50"]["x"]
    assert plot["ticks"][0] == {"x": 8.0, "ms": 0.0}
    assert plot_latencies({}) is None
    assert [choose_step(limit) for limit in (6.0, 61.0, 0.5)] == [1.0, 20.0, pytest.approx(0.1)]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_takes_it_without_a_word(page: str, width: int, tmp_path: Path) -> None:
    # Headless windows have a least width, frames have none; the frame says what it saw.
    probe = """<script>addEventListener("load", () => {
      const slider = document.querySelector(".compare input");
      slider.value = 20; slider.dispatchEvent(new Event("input"));
      console.log("seen", innerWidth, document.documentElement.scrollWidth,
        slider.getAttribute("aria-valuetext"), slider.closest(".compare")
        .querySelector(".stack").style.getPropertyValue("--split"),
        [...document.images].every((image) => image.complete && image.naturalWidth > 0),
        performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).length);
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{probe}</body>"))
    frame = f'<iframe src="page.html" style="border:0" width="{width}" height="900"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><title>t</title>{frame}")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--hide-scrollbars", "--no-sandbox", "--disable-gpu",
         "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 100},1000",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert f'"seen {width} {width} 20 % reference 20% true 0"' in console[0]
