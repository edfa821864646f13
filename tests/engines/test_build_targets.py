from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from engines import known_wrong
from engines.audit import AuditError
from engines.build_targets import TargetBuilds, build_targets, engine_stem
from engines.kernels import parse_inspector
from engines.known_wrong import KnownWrong, KnownWrongError
from engines.target import Target, missing_reason
from engines.trt_builder import BuildOptions
from export.manifest import hash_file
from segvit.config import find_variant

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT-RTX")
pytestmark = pytest.mark.trt_rtx
Writer = Callable[..., Path]
LACKS_TRT = missing_reason(Target.TRT) is not None


def build(path: Path, folder: Path, *targets: Target, **settings: object) -> TargetBuilds:
    capabilities = settings.pop("capabilities", ("SM89",))
    allowed = bool(settings.pop("allow_known_wrong", False))
    options = BuildOptions(compute_capabilities=capabilities, allow_known_wrong=allowed)
    precision = str(settings.pop("precision", "fp16"))
    return build_targets(path, targets, options, precision, folder, progress=False, **settings)


def test_all_that_can_be_built_is_and_the_rest_is_listed(segmenter: Writer, tmp_path: Path) -> None:
    said: list[str] = []
    builds = build(segmenter(), tmp_path, report=said.append)
    built = {entry.target for entry in builds.entries}
    missing = {entry.target for entry in builds.not_built}
    assert built | missing == set(Target)
    assert {"trt-rtx", "ort"} <= built
    assert all(entry.reason for entry in builds.not_built)
    assert any("attentions fused" in line for line in said)


def test_an_engine_is_stored_with_its_layers_and_audit(segmenter: Writer, tmp_path: Path) -> None:
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, capabilities=("sm120", "SM86", "SM86"))
    (entry,) = builds.entries
    assert entry.file == "trt-rtx-sm86-sm120.engine"
    assert entry.layers == "layers_trt-rtx.json"
    assert entry.compute_capabilities == ("SM86", "SM120")
    assert builds.files == {name: hash_file(tmp_path / name) for name in (entry.file, entry.layers)}
    assert entry.audit is not None
    assert entry.audit.fused_attentions == entry.audit.attentions == 3
    layers = json.loads((tmp_path / entry.layers).read_text())
    kernels = parse_inspector(layers["Layers"])
    assert sum(kernel.launches for kernel in kernels) == entry.audit.kernels
    assert layers["Bindings"] == ["image", "labels"]


def test_each_generation_of_gpus_has_its_engine(segmenter: Writer, tmp_path: Path) -> None:
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, capabilities=("SM89", "SM75", "SM86"))
    assert [entry.file for entry in builds.entries] == [
        "trt-rtx-sm75.engine", "trt-rtx-sm86-sm89.engine",
    ]  # fmt: skip
    assert [entry.layers for entry in builds.entries] == [
        "layers_trt-rtx.json", "layers_trt-rtx-sm86-sm89.json",
    ]  # fmt: skip
    assert len(builds.files) == 4


def test_onnx_runtimes_entry_is_the_onnx_file(segmenter: Writer, tmp_path: Path) -> None:
    path = segmenter()
    builds = build(path, tmp_path, Target.ORT)
    assert [(entry.target, entry.file) for entry in builds.entries] == [("ort", path.name)]
    assert builds.files == {}


def test_what_onnx_runtime_cannot_load_is_listed_or_refused(
    segmenter: Writer, tmp_path: Path
) -> None:
    path = segmenter(precision="bf16")
    builds = build(path, tmp_path, precision="bf16")
    reasons = {entry.target: entry.reason for entry in builds.not_built}
    assert reasons["ort"].startswith("ONNX Runtime's CPU provider computes no BF16; build with ")
    with pytest.raises(ValueError, match=r"'ort' cannot be built here: ONNX Runtime's .* no BF16"):
        build(path, tmp_path, Target.ORT, precision="bf16")


@pytest.mark.skipif(not LACKS_TRT, reason="this machine builds with TensorRT")
def test_a_target_this_machine_lacks_is_an_error_by_name(segmenter: Writer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target 'trt' cannot be built here: "):
        build(segmenter(), tmp_path, Target.TRT_RTX, Target.TRT)
    assert list(tmp_path.iterdir()) == []  # said before anything is built


def test_an_unfused_attention_is_an_error_unless_allowed(segmenter: Writer, tmp_path: Path) -> None:
    path = segmenter(read_logits=True)
    with pytest.raises(AuditError, match="did not fuse in fp16: head/0/cross/softmax"):
        build(path, tmp_path, Target.TRT_RTX)
    assert list(tmp_path.iterdir()) == []
    builds = build(path, tmp_path, Target.TRT_RTX, allow_unfused=True)
    assert builds.warnings == (
        "'trt-rtx-sm89.engine': attentions that did not fuse, as allowed: head/0/cross/softmax",
    )


def test_what_the_audit_cannot_vouch_for_is_an_error_unless_allowed(
    segmenter: Writer, tmp_path: Path
) -> None:
    model = onnx.load(segmenter())
    for key, value in (("model", "{}"), ("config", find_variant("vit_t_landcover").to_json())):
        model.metadata_props.add(key=key, value=value)
    path = tmp_path / "described.onnx"
    onnx.save(model, path)
    with pytest.raises(AuditError, match="description has 17 attentions, its ONNX graph shows 3"):
        build(path, tmp_path, Target.TRT_RTX)
    builds = build(path, tmp_path, Target.TRT_RTX, allow_unaudited=True)
    assert builds.warnings == (
        "'trt-rtx-sm89.engine': not audited, as allowed: the model's description has 17 "
        "attentions, its ONNX graph shows 3",
    )
    (entry,) = builds.entries
    assert entry.audit is not None
    assert len(entry.audit.unaudited) == 1


def test_a_layer_list_of_another_engine_keeps_its_name(segmenter: Writer, tmp_path: Path) -> None:
    taken = {"layers_trt-rtx.json": "trt-rtx-sm75.engine"}
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, taken=taken)
    assert builds.entries[0].layers == "layers_trt-rtx-sm89.json"
    again = {"layers_trt-rtx.json": "trt-rtx-sm89.engine"}
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, taken=again)
    assert builds.entries[0].layers == "layers_trt-rtx.json"


def test_a_misspelt_capability_is_refused(segmenter: Writer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compute capability 'ADA': expected the form SM89"):
        build(segmenter(), tmp_path, Target.TRT_RTX, capabilities=("ada",))


def test_engine_names_say_target_and_gpus() -> None:
    assert engine_stem(Target.TRT, ("SM90",)) == "trt-sm90"


def test_a_graph_that_tensorrt_does_not_document_is_refused(
    segmenter: Writer, tmp_path: Path
) -> None:
    model = onnx.load(segmenter(batch="batch"))
    shape = onnx.helper.make_node("Shape", ["image"], ["sizes"], name="patch_embed/sizes")
    model.graph.node.insert(0, shape)
    path, folder = tmp_path / "model.onnx", tmp_path / "out"
    onnx.save(model, path)
    folder.mkdir()
    with pytest.raises(
        ValueError, match=r"node 'patch_embed/sizes' \(Shape\): reads uint8 'image'"
    ):
        build(path, folder, Target.TRT_RTX)
    assert list(folder.iterdir()) == []
    build(path, folder, Target.ORT)  # which takes it


def test_a_report_about_a_gpu_is_kept_as_a_warning(segmenter: Writer, tmp_path: Path) -> None:
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, capabilities=("SM75", "SM120"))
    (warning,) = builds.warnings
    assert warning.startswith("'trt-rtx-sm120.engine': may be wrong: NVIDIA/TensorRT#4837: ")


def test_what_is_known_to_be_wrong_is_refused_unless_allowed(
    segmenter: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = KnownWrong(
        "report#1", "wrong labels", "use another GPU", Target.TRT_RTX, "1.0", None,
        is_certain=True, capabilities=("SM89",), head_sizes=(32,),
    )  # fmt: skip
    monkeypatch.setattr(known_wrong, "KNOWN_WRONG", (row,))
    with pytest.raises(KnownWrongError, match=r"trt-rtx .* for SM89 in fp16 is known .*report#1"):
        build(segmenter(), tmp_path, Target.TRT_RTX)
    assert list(tmp_path.iterdir()) == []
    builds = build(segmenter(), tmp_path, Target.TRT_RTX, allow_known_wrong=True)
    assert builds.warnings == (
        "'trt-rtx-sm89.engine': known to be wrong, built as allowed: report#1: wrong labels; "
        "instead, use another GPU",
    )
