"""The repository as files; tests/triton_server has them served."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.engine_list import EngineList
from export.manifest import BuiltTarget, Manifest, hash_file
from export.triton import main
from segvit.cli import run_main
from tests.engines.conftest import write_segmenter
from tests.triton_server.artifacts import ODD_NAMES, alter, engine, make_artifact

Maker = Callable[..., Path]


def run(*arguments: object) -> int:
    """Return the exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as end:
        run_main(main, [str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A function that makes an artifact, in a folder of its name."""
    return lambda name="artifact", **options: make_artifact(tmp_path / name, **options)


def config_of(model: Path) -> str:
    return re.sub(r"\s+", " ", (model / "config.pbtxt").read_text())


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_range_of_batches_is_batched_by_the_server(make: Maker, tmp_path: Path) -> None:
    folder, out = make(batch="batch"), tmp_path / "models"
    assert run("--artifact", folder, "--out", out, "--max-queue-delay-us", 700) == 0
    config = config_of(out / "tiny")
    for text in (
        'name: "tiny" backend: "onnxruntime" max_batch_size: 4 ',
        'input { name: "image" data_type: TYPE_UINT8 dims: 64 dims: 64 dims: 3 }',
        'output { name: "labels" data_type: TYPE_UINT8 dims: 64 dims: 64 }',
        "preferred_batch_size: 2 preferred_batch_size: 4 max_queue_delay_microseconds: 700",
        "version_policy { latest { num_versions: 1 } }",
        "instance_group { count: 1 kind: KIND_AUTO }",
    ):
        assert text in config
    assert [int(size) for size in re.findall(r" batch_size: (\d)", config)] == [1, 2, 4]
    manifest = Manifest.read(folder)
    assert tree(out) == {
        "tiny/config.pbtxt": (out / "tiny" / "config.pbtxt").read_bytes(),
        "tiny/labels.txt": "".join(f"{name}\n" for name in manifest.classes).encode(),
        "tiny/1/model.onnx": (folder / "model.onnx").read_bytes(),
    }


@pytest.mark.parametrize("targets", [(), (engine("SM90"),)])
def test_a_fixed_batch_is_declared_whole(
    make: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    targets: tuple[BuiltTarget, ...],
) -> None:
    folder, out = make(targets=targets), tmp_path / "models"
    assert run("--artifact", folder, "--out", out) == 0
    config = config_of(out / "tiny")
    assert "max_batch_size: 0 " in config
    assert "dims: 1 dims: 64 dims: 64 dims: 3 }" in config
    assert "dynamic_batching" not in config
    assert "note: the engine's batch is fixed at 1, so the server cannot" in capsys.readouterr().out
    assert run("--artifact", folder, "--out", out, "--max-queue-delay-us", 1, "--version", 2) == 1
    assert "error: --max-queue-delay-us: the engine's batch is fixed" in capsys.readouterr().err


def test_an_engine_that_needs_two_images_is_not_batched(make: Maker, tmp_path: Path) -> None:
    folder = alter(make(targets=(engine("SM90"),), batch="batch"), batch=(2, 4, 8))
    assert run("--artifact", folder, "--out", tmp_path / "models") == 0
    config = config_of(tmp_path / "models" / "tiny")
    assert "max_batch_size: 0 " in config
    assert 'input { name: "image" data_type: TYPE_UINT8 dims: -1 dims: 64' in config
    assert "batch_size: 1 inputs" in config
    assert "dims: 4 dims: 64 dims: 64 dims: 3 random_data: true" in config


def test_an_engine_runs_on_gpus_and_says_what_it_needs(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make(targets=(engine("SM90"),), batch="batch"), tmp_path / "models"
    assert run("--artifact", folder, "--out", out, "--instances", 2) == 0
    config = config_of(out / "tiny")
    assert 'backend: "tensorrt" max_batch_size: 4 ' in config
    assert "instance_group { count: 2 kind: KIND_GPU }" in config
    assert 'key: "tensorrt_version" value { string_value: "10.16.0" }' in config
    assert "cc_model_filenames" not in config
    assert (out / "tiny/1/model.plan").read_bytes() == (folder / "trt-sm90.engine").read_bytes()
    assert "note: the server needs TensorRT 10.16.0 and a GPU of SM90" in capsys.readouterr().out
    assert run("--artifact", folder, "--out", out, "--name", "other", "--device", "cpu") == 1
    assert "error: --device cpu: TensorRT engines run on a GPU" in capsys.readouterr().err


def test_engines_for_several_gpus_go_by_capability(make: Maker, tmp_path: Path) -> None:
    folder = make(targets=(engine("SM89"), engine("SM120")))
    assert run("--artifact", folder, "--out", tmp_path / "models") == 0
    config = config_of(tmp_path / "models" / "tiny")
    for key, name in (("8.9", "model_sm89.plan"), ("12.0", "model_sm120.plan")):
        assert f'cc_model_filenames {{ key: "{key}" value: "{name}" }}' in config
    version = tree(tmp_path / "models" / "tiny" / "1")
    assert version["model_sm120.plan"] == b"the bytes of trt-sm120.engine"
    assert set(version) == {"model_sm89.plan", "model_sm120.plan"}


def test_weights_beside_the_graph_keep_their_name(make: Maker, tmp_path: Path) -> None:
    assert run("--artifact", make(data=True), "--out", tmp_path / "models") == 0
    assert set(tree(tmp_path / "models" / "tiny" / "1")) == {"model.onnx", "model.onnx.data"}


def test_a_repository_keeps_what_it_has(make: Maker, tmp_path: Path) -> None:
    out = tmp_path / "models"
    (out / "theirs" / "1").mkdir(parents=True)
    (out / "theirs" / "1" / "model.onnx").write_text("theirs")
    folder = make(batch="batch")
    assert run("--artifact", folder, "--out", out, "--name", "mine") == 0
    first = tree(out)
    write_segmenter(folder / "model.onnx", batch="batch", depth=1)
    alter(folder, files={"model.onnx": hash_file(folder / "model.onnx")})
    command = ("--artifact", folder, "--out", out, "--name", "mine", "--version", 2)
    assert run(*command, "--version-policy", "all") == 0
    second = tree(out)
    assert second["mine/2/model.onnx"] == (folder / "model.onnx").read_bytes()
    assert "version_policy { all { } }" in config_of(out / "mine")
    del second["mine/2/model.onnx"]
    assert {**second, "mine/config.pbtxt": first["mine/config.pbtxt"]} == first


def test_a_version_is_replaced_only_when_asked(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make(), tmp_path / "models"
    assert run("--artifact", folder, "--out", out) == 0
    before = tree(out)
    assert run("--artifact", folder, "--out", out) == 1
    assert "has a version 1 already; give another --version or --name" in capsys.readouterr().err
    assert tree(out) == before
    other = make("other", batch="batch", size=32)
    assert run("--artifact", other, "--out", out, "--replace") == 0
    assert tree(out)["tiny/1/model.onnx"] == (other / "model.onnx").read_bytes()
    assert "max_batch_size: 4" in config_of(out / "tiny")


def test_an_older_version_says_that_it_is_not_served(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--artifact", make(batch="batch"), "--out", tmp_path / "models")
    assert run(*command, "--version", 10) == 0
    assert "note:" not in capsys.readouterr().out
    assert run(*command, "--version", 9) == 0
    assert "note: version 10 is there and is the one that is served" in capsys.readouterr().out
    assert run(*command, "--version", 8, "--version-policy", "all") == 0
    assert "note:" not in capsys.readouterr().out


def test_versions_have_to_agree(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert run("--artifact", make(), "--out", out) == 0
    before = tree(out)
    renamed = alter(make("renamed"), classes=ODD_NAMES)
    for other in (make("other", batch="batch"), make("small", size=32), renamed):
        assert run("--artifact", other, "--out", out, "--version", 2) == 1
        assert "versions differ in back end, batch, shape or classes" in capsys.readouterr().err
        assert tree(out) == before


def test_a_folder_of_something_else_is_left_alone(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "notes").write_text("mine")
    assert run("--artifact", make(), "--out", tmp_path / "models", "--replace") == 1
    assert "is there but has no config.pbtxt, so it will not be" in capsys.readouterr().err
    assert tree(tmp_path / "models") == {"tiny/notes": b"mine"}


def test_a_changed_file_is_refused(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(data=True)
    (folder / "model.onnx.data").write_bytes(b"changed")
    assert run("--artifact", folder, "--out", tmp_path / "models") == 1
    assert f"'{folder / 'model.onnx.data'}'" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_another_artifact_than_the_one_of_the_digest_is_refused(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make()
    options = ("--artifact", folder, "--out", tmp_path / "models", "--digest")
    assert run(*options, "a" * 64) == 1
    assert f"expected digest {'a' * 64}, got " in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
    assert run(*options, hash_file(folder / "manifest.json")) == 0


def test_an_engine_of_the_server_s_version_takes_the_place_of_an_older_one(
    make: Maker, tmp_path: Path
) -> None:
    folder = make(targets=(engine("SM89", version="10.3"),))
    manifest = Manifest.read(folder)
    assert manifest.digest is not None
    (folder / "new.engine").write_bytes(b"new")
    newer = BuiltTarget("trt", "11.4", ("SM89",), "new.engine")
    files = {"new.engine": hash_file(folder / "new.engine")}
    EngineList(manifest.digest, manifest.batch, files=files, targets=(newer,)).write(
        folder, manifest.files
    )
    assert run("--artifact", folder, "--out", tmp_path / "models") == 0
    assert (tmp_path / "models/tiny/1/model.plan").read_bytes() == b"new"


def test_an_interrupted_copy_leaves_no_trace(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    folder, out = make(batch="batch"), tmp_path / "models"
    monkeypatch.setattr("shutil.copyfile", fill)
    assert run("--artifact", folder, "--out", out) == 1
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    assert run("--artifact", folder, "--out", out) == 0
    before = tree(out)
    monkeypatch.setattr("shutil.copyfile", fill)
    assert run("--artifact", folder, "--out", out, "--version", 2) == 1
    assert tree(out) == before


@pytest.mark.parametrize(
    ("targets", "arguments", "message"),
    [
        ((), ["--target", "trt"], "holds no trt engine, only ort; add it: python -m engines.build"),
        ((), ["--target", "trt-rtx"], "Triton has no back end for TensorRT-RTX, and the"),
        ((), ["--target", "openvino"], "target 'openvino' cannot be served: its engines are made"),
        ((), ["--name", "../x"], "model name '../x': expected letters, digits"),
        (
            (BuiltTarget("trt-rtx", "1.7", ("SM89",), "rtx.engine"),),
            [],
            "holds nothing that Triton serves, only trt-rtx; add it: python -m engines.build",
        ),
        (
            (engine("SM89"), engine("SM90", "11.4")),
            [],
            "holds engines of TensorRT 10.16.0 and 11.4, and a server has one TensorRT",
        ),
        (
            (engine("SM89"), engine("Ampere")),
            [],
            "compute capability 'Ampere': expected the form SM89",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(
    make: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    targets: tuple[BuiltTarget, ...],
    arguments: list[str],
    message: str,
) -> None:
    assert run("--artifact", make(targets=targets), "--out", tmp_path / "models", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_a_tensor_that_triton_has_no_type_for(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make()
    output = replace(Manifest.read(folder).outputs[0], dtype="complex64")
    assert run("--artifact", alter(folder, outputs=(output,)), "--out", tmp_path / "models") == 1
    assert "tensor 'labels' is of type complex64: expected one of" in capsys.readouterr().err


def test_json_says_what_was_written(
    make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert run("--artifact", make(batch="batch"), "--out", out, "--version", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "tiny",
        "version": 3,
        "path": str(out / "tiny"),
        "backend": "onnxruntime",
        "max_batch_size": 4,
        "files": ["config.pbtxt", "labels.txt", "3/model.onnx"],
        "notes": [],
    }


@pytest.mark.parametrize(
    ("option", "value"), [("--instances", "0"), ("--version", "x"), ("--max-queue-delay-us", "-1")]
)
def test_wrong_numbers_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--artifact", "a", "--out", "b", option, value) == 2
    assert option in capsys.readouterr().err


def test_help_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "example:\n  python -m export.triton --artifact" in capsys.readouterr().out
