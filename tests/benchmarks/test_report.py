"""`benchmarks.report`: what it says, that it escapes, and that a browser takes it silently."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.latency import main as measure_latency
from benchmarks.parity import main as measure_parity
from benchmarks.report import main
from benchmarks.report_artifact import judge, read_subject
from benchmarks.report_plots import choose_step, plot_latencies, plot_layers
from engines.audit import audit_layers
from engines.graph import read_graph
from export.manifest import Manifest, ManifestError
from tests.benchmarks.small_artifacts import SIZE, add_files, write_artifact

HOSTILE = '<script>alert("x")</script>'
CLASSES = (HOSTILE, "g</style>", 'b" onload="x')
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUICK = ("--target", "ort", "--vs", "none", "--rounds", "3", "--warm-up", "0", "--no-memory")
SECTIONS = ("built", "precision", "parity", "pictures", "latency", "roofline")


def _measure(folder: Path) -> None:
    """Write what the report reads of an artifact, by the commands that a user would give."""
    classes = Manifest.read(folder).classes
    reference = write_artifact(folder.parent / "reference", "fp32", classes=classes)
    images = folder.parent / "images"
    images.mkdir()
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        cv2.imwrite(str(images / f"{index}.png"), noise)
    reports = folder / "report"
    artifact = ("--artifact", str(folder), "--json", "--out")
    assert measure_latency([*artifact, str(reports / "latency.json"), *QUICK, "--end-to-end"]) == 0
    compared = ("--images", str(images), "--resamples", "20", "--target", "ort")
    against = ("--reference", str(reference))
    assert measure_parity([*artifact, str(reports / "parity.json"), *compared, *against]) == 0


def _build(*folders: Path, options: tuple[str, ...] = ()) -> str:
    out = folders[0].parent / "report.html"
    assert main(["--artifact", *map(str, folders), "--out", str(out), *options]) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page about one artifact with results, all of whose class names are hostile."""
    folder = write_artifact(tmp_path_factory.mktemp("report") / "a", classes=CLASSES)
    product = {"tail/mix": {"asked": "Half", "obtained": "Float"}}
    add_files(folder, build_json=json.dumps({"engine": product}))
    _measure(folder)
    return _build(folder)


def _cells(page: str, caption: str) -> list[list[str]]:
    """Return the texts of a table's rows, those of its head first."""
    table = next(t for t in re.findall(r"<table.*?</table>", page, re.DOTALL) if caption in t)
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in cells]


def test_sections_and_figures(page: str) -> None:
    for section in (*(f"m1-{name}" for name in SECTIONS), "limits", "licences", "reproduce"):
        assert f'<section id="{section}"' in page
    assert "<strong>Pass</strong> a: FP16 labels 99.950% of pixels" in page
    assert "<code>tail/mix (Half → Float)</code>" in page
    assert _cells(page, "products, asked and obtained")[1] == ["Half", "Float", "1"]
    assert [row[0] for row in _cells(page, "Milliseconds a call")] == ["Candidate", "ort fp16"]
    assert _cells(page, "End to end")[0][3:] == [
        "Decode", "Resize", "Infer", "Resize labels", "Write",
    ]  # fmt: skip
    assert _cells(page, "95 % intervals over images")[1][:3] == [
        "a", "ort", "1.00000 [1.00000, 1.00000]",
    ]  # fmt: skip
    assert len(_cells(page, "By class")) == 1 + len(CLASSES)
    assert "Disagreement: 32 pixels (12.500 %)" in page
    assert "python -m export.build --fp16 --target trt-rtx ort --compute-capability SM89" in page
    assert "python -m benchmarks.latency --artifact" in page
    assert "3 rounds are too few for an interval" in page
    assert "Not measured: H2D, GPU compute" in page
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
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))
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
    assert all("aria-label=" in plot for plot in re.findall(r"<svg [^>]*>", page))
    assert page.count("<caption>") == page.count("<table") > 0
    assert '<html lang="en">' in page


def test_a_bare_artifact_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = _build(write_artifact(tmp_path / "a"), options=("--target", "trt"))
    assert "Not measured yet" in page
    assert "No engine of it was audited" in page
    assert "none runs here" in page
    assert "Disagreement" not in page
    assert "not measured yet: python -m benchmarks.latency" in capsys.readouterr().out


def test_precision_is_that_of_the_audits(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a", "int8")
    manifest = Manifest.read(folder)
    document = json.loads((folder / "layers_trt-rtx.json").read_text())
    audit = audit_layers(document, read_graph(folder / "model.onnx")).summary()
    audit = replace(audit, budget="as stored")
    engine, ort = manifest.targets
    replace(manifest, targets=(replace(engine, audit=audit), ort)).write(folder)
    page = _build(folder)
    assert "Asked: INT8." in page
    assert _cells(page, "by the audit of each engine")[1] == [
        "engine", "trt-rtx", "SM89", "1 Half", "0 of 0", "not known", "as stored",
    ]  # fmt: skip
    assert _cells(page, "Targets of a")[1][5:7] == ["2", "0.0"]
    assert "ort: the ONNX file is computed as it is written" in page
    edited = replace(engine, audit=replace(audit, gemm_datatypes={"Int8": 1}))
    replace(manifest, targets=(edited, ort)).write(folder)
    with pytest.raises(ManifestError, match=r"says gemm_datatypes\.Int8 1, its files say None"):
        main(["--artifact", str(folder)])


def test_models_have_sections_of_their_own(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "one" / "a")
    _measure(folder)
    other = write_artifact(tmp_path / "two" / "a", model="other")
    page = _build(folder, other, folder.parent / "reference")
    assert re.findall(r'<h2 id="m\d-title">(.*?)</h2>', page) == [
        "tiny, 16×16", "other, 16×16",
    ]  # fmt: skip
    first, second = page.split('<section class="model"')[1:]
    assert "Milliseconds a call" in first
    assert "Milliseconds a call" not in second
    assert "Targets of reference" in first
    assert f"Targets of {other}" in second  # two are called a: their paths tell them apart
    latency = folder / "report" / "latency.json"
    assert _build(folder, other, options=("--latency", str(latency))).count("Milliseconds") == 1
    write_artifact(tmp_path / "again" / "a", "bf16")
    shutil.copytree(folder / "report", tmp_path / "again" / "a" / "report")
    result = json.loads(latency.read_text())
    result["artifacts"]["a"]["files"]["model.onnx"] = "0" * 64
    (tmp_path / "again" / "a" / "report" / "latency.json").write_text(json.dumps(result))
    assert "a was built again after it was measured" in _build(tmp_path / "again" / "a")
    with pytest.raises(ValueError, match="is a result of none of these artifacts"):
        main(["--artifact", str(other), "--latency", str(latency)])


def test_predicted_against_measured(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    _measure(folder)
    assert "this engine was not measured" in _build(folder)
    path = folder / "report" / "latency.json"
    result = json.loads(path.read_text())
    text = json.dumps(result).replace("ort fp16", "trt-rtx fp16")
    result = json.loads(text)
    result["latency"]["trt-rtx fp16"]["p50_ms"] = 4.5
    path.write_text(json.dumps(result))
    page = _build(folder, options=("--gpu", "L4"))
    estimate_ms = 2 * 1.5e-3 + (3000 + 3090) / 300e6  # two launches, bytes at 300 GB/s
    assert _cells(page, "Predicted against measured")[1] == [
        "L4", f"{estimate_ms:.3f}", "4.500", f"{4.5 / estimate_ms:.2f}",
    ]  # fmt: skip


def test_bad_input(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    with pytest.raises(ValueError, match="is given twice"):
        main(["--artifact", str(folder), str(folder)])
    for name in ("latency", "parity", "sweep"):
        old = tmp_path / f"{name}.json"
        old.write_text('{"schema": 99}')
        with pytest.raises(ValueError, match=r"expected schema [12], got 99"):
            main(["--artifact", str(folder), f"--{name}", str(old)])
        old.write_text('{"schema": 1}')
        with pytest.raises(ValueError, match=f"{name}.json' is (damaged|no sweep)"):
            main(["--artifact", str(folder), f"--{name}", str(old)])
    shutil.copy(tmp_path / "latency.json", folder / "report.json")
    with pytest.raises(ValueError, match=r"report.json' is damaged: KeyError 'latency'"):
        main(["--artifact", str(folder), "--latency", str(folder / "report.json")])
    (folder / "golden.npz").write_bytes(b"changed")
    with pytest.raises(ManifestError, match="was changed after it was built"):
        main(["--artifact", str(folder)])
    assert not (folder / "report.html").exists()


def test_the_verdict_is_the_gates(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    subject = read_subject(folder, "a")
    assert judge(subject)["word"] == "Pass"
    assert judge(read_subject(write_artifact(tmp_path / "b", "fp32"), "b"))["word"] == "Fail"
    entry = {"folder": "a", "target": "trt", "pixel_agreement": 0.99, "miou_delta": -0.02}
    later = judge(subject, [{"entries": [entry]}])
    assert later["word"] == "Fail"
    assert "on trt, compared later, 99.000% of pixels and -2.00 points" in later["text"]
    assert judge(subject, [{"entries": [{**entry, "folder": "b"}]}])["word"] == "Pass"
    manifest = replace(subject.manifest, command="python -m export.build --max-miou-drop=2.5")
    manifest.write(folder)
    assert read_subject(folder, "a").gate.miou_drop == pytest.approx(0.025)


def test_plots_start_at_zero_and_end_at_the_largest_p99() -> None:
    plot = plot_latencies({"a": [10.0] * 99 + [1000.0], "b": [5.0] * 100})
    assert plot is not None
    first, second = plot["rows"]
    assert (first["beyond"], second["beyond"]) == (1, 0)
    assert second["p50"]["x"] < first["p50"]["x"]
    assert plot["ticks"][0] == {"x": 8.0, "ms": 0.0}
    assert plot_latencies({}) is None
    assert [choose_step(limit) for limit in (6.0, 61.0, 0.5)] == [1.0, 20.0, pytest.approx(0.1)]


def test_layers_are_drawn_by_the_logarithm_of_their_error() -> None:
    plot = plot_layers(["a", "b", "c", "d"], [0.0, 1e-4, 1e-2, None], 1e-3, 2)
    assert plot is not None
    heights = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)h0", plot["dots"])]
    assert heights[0] == heights[1] == plot["bottom"]  # equal outputs lie at the bottom
    assert heights[2] == heights[3] == plot["first"]["y"]  # no finite number lies at the top
    assert plot["threshold"] == pytest.approx((heights[1] + heights[2]) / 2)
    assert plot_layers([], [], 1e-3, None) is None


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")
def test_a_browser_takes_it_without_a_word(page: str, tmp_path: Path) -> None:
    # Headless windows have a least width, frames have none; each frame says what it saw.
    probe = """<script>addEventListener("load", () => {
      const slider = document.querySelector(".compare input");
      slider.value = 20; slider.dispatchEvent(new Event("input"));
      console.log("seen", innerWidth, document.documentElement.scrollWidth,
        slider.getAttribute("aria-valuetext"), slider.closest(".compare")
        .querySelector(".stack").style.getPropertyValue("--split"),
        [...document.images].every((image) => image.complete && image.naturalWidth > 0),
        performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).length,
        [...document.querySelectorAll(".scroll:has(table)")]
        .filter((one) => one.scrollWidth > one.clientWidth + 1).length);
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{probe}</body>"))
    frames = "".join(
        f'<iframe src="page.html" style="border:0" width="{width}" height="900"></iframe>'
        for width in (390, 1280)
    )
    (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><title>t</title>{frames}")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--hide-scrollbars", "--no-sandbox", "--disable-gpu",
         "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
         (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 2, console
    for width in (390, 1280):
        seen = f'"seen {width} {width} 20 % reference 20% true 0 0"'
        assert any(seen in line for line in console), console
