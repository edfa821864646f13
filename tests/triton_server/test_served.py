"""The repository as a real tritonserver reads, loads and serves it.

The server's environment is installed by the first run.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engines.runtime import open_runtime
from export.manifest import Manifest
from export.triton import main
from tests.triton_server.artifacts import ODD_NAMES, alter, engine, make_artifact
from tests.triton_server.install import VENV, InstallError, install
from tests.triton_server.server import ServerError, TritonServer

Maker = Callable[..., Path]
READER = Path(__file__).with_name("read_config.py")
PAGE = Path(__file__).parents[2] / "docs" / "triton.md"

pytestmark = pytest.mark.slow


def run(*arguments: object) -> int:
    """Return the exit code of the command, run in this process."""
    return main([str(argument) for argument in arguments])


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A function that makes an artifact."""
    return lambda **options: make_artifact(tmp_path / "artifact", **options)


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        install()
    except InstallError as error:
        pytest.skip(f"no tritonserver here: {error}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(
    installed: None, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with TritonServer(repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (12, 64, 64, 3), np.uint8)


def test_the_servers_definition_reads_every_field(
    installed: None, make: Maker, tmp_path: Path
) -> None:
    folder = make(targets=(engine("SM89"), engine("SM120")), batch="batch", scores=True)
    alter(folder, classes=ODD_NAMES)
    assert run("--artifact", folder, "--out", tmp_path / "models", "--instances", 2) == 0
    done = subprocess.run(
        [VENV / "bin" / "python", READER, tmp_path / "models" / "tiny" / "config.pbtxt"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = json.loads(done.stdout)
    parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert tuple(json.loads(parameters["classes"])) == ODD_NAMES
    assert json.loads(parameters["palette"])[0] == [28, 92, 168]
    assert parameters["licence"] == "Apache-2.0"
    assert config["output"] == [
        {"name": "scores", "data_type": "TYPE_FP32", "dims": ["8", "64", "64"]}
    ]
    assert config["cc_model_filenames"] == {"8.9": "model_sm89.plan", "12.0": "model_sm120.plan"}
    assert config["instance_group"] == [{"count": 2, "kind": "KIND_GPU"}]
    assert config["dynamic_batching"]["preferred_batch_size"] == [2, 4]
    assert [sample["batch_size"] for sample in config["model_warmup"]] == [1, 2, 4]


def test_concurrent_requests_are_batched_and_labelled_as_by_the_runtime(
    server: TritonServer, repository: Path, make: Maker, images: np.ndarray
) -> None:
    folder = make(batch="batch")
    options = ("--name", "batched", "--max-queue-delay-us", 500_000)
    assert run("--artifact", folder, "--out", repository, *options) == 0
    server.load("batched")
    server.ask("models/batched/ready")
    parameters = server.ask("models/batched/config")["parameters"]
    classes = Manifest.read(folder).classes
    assert tuple(json.loads(parameters["classes"]["string_value"])) == classes

    (warm,) = server.ask("models/batched/stats")["model_stats"]
    assert warm["inference_count"] == 1 + 2 + 4  # the warm-up requests, all of which succeeded
    assert warm["inference_stats"]["fail"]["count"] == 0
    with ThreadPoolExecutor(len(images)) as pool:
        answers = list(pool.map(lambda image: server.infer("batched", image[None]), images))
    with open_runtime(folder, target="ort", threads=1) as runtime:
        for image, answer in zip(images, answers, strict=True):
            assert answer.dtype == np.uint8
            assert np.array_equal(answer, runtime.infer(image[None]))

    (after,) = server.ask("models/batched/stats")["model_stats"]
    requests = after["inference_count"] - warm["inference_count"]
    runs = after["execution_count"] - warm["execution_count"]
    assert requests == len(images)
    assert runs <= len(images) // 2
    largest = max(entry["batch_size"] for entry in after["batch_stats"])
    assert largest == 4
    with pytest.raises(ServerError, match="batch-size must be <= 4"):
        server.infer("batched", images[:5])


def test_a_fixed_batch_is_served_as_it_is(
    server: TritonServer, repository: Path, make: Maker, images: np.ndarray
) -> None:
    folder = make(scores=True)
    assert run("--artifact", folder, "--out", repository, "--name", "fixed") == 0
    server.load("fixed")
    with open_runtime(folder, target="ort", threads=1) as runtime:
        expected = runtime.infer(images[:1])
    assert np.array_equal(server.infer("fixed", images[:1]), expected)
    with pytest.raises(ServerError, match="unexpected shape for input 'image'"):
        server.infer("fixed", images[:2])


def test_the_client_of_the_docs_runs(
    server: TritonServer, repository: Path, make: Maker, images: np.ndarray, tmp_path: Path
) -> None:
    folder = make(batch="batch")
    with open_runtime(folder, target="ort", threads=1) as runtime:
        labels = runtime.infer(images[:2])
        first = runtime.classes[labels[0, 0, 0]]
    np.savez(folder / "golden.npz", images=images[:2], labels=labels)
    assert run("--artifact", folder, "--out", repository, "--name", "segvit") == 0
    server.load("segvit")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for old, new in (("127.0.0.1:8000", server.url[7:]), ("artifacts/mine", str(folder))):
        assert old in script
        script = script.replace(old, new)
    done = subprocess.run(
        [VENV / "bin" / "python", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == f"{first} 1.0\n", done.stderr


def test_the_version_policy_says_what_is_served(
    server: TritonServer, repository: Path, make: Maker
) -> None:
    folder = make(batch="batch", size=32)
    for version, policy, served in ((1, "latest", ["1"]), (2, "latest", ["2"]), (3, "all", "123")):
        options = ("--version", version, "--version-policy", policy, "--instances", 2)
        assert run("--artifact", folder, "--out", repository, "--name", "many", *options) == 0
        server.load("many")
        assert sorted(server.ask("models/many")["versions"]) == list(served)
    groups = server.ask("models/many/config")["instance_group"]
    assert [group["count"] for group in groups] == [2]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("misspelt", "max_batch_size", "max_batchsize", "failed to read text proto"),
        ("type", "TYPE_UINT8", "TYPE_BYTE", "failed to read text proto"),
        ("sizes", "preferred_batch_size: 4", "preferred_batch_size: 9", "size must be <= max"),
        ("shape", "dims: 64", "dims: 48", "run warmup sample '1 of noise'"),
    ],
)
def test_the_server_refuses_a_damaged_configuration(
    server: TritonServer,
    repository: Path,
    make: Maker,
    name: str,
    old: str,
    new: str,
    message: str,
) -> None:
    assert run("--artifact", make(batch="batch"), "--out", repository, "--name", name) == 0
    path = repository / name / "config.pbtxt"
    path.write_text(path.read_text().replace(old, new))
    before = len(server.log.read_text())
    with pytest.raises(ServerError, match=f"failed .*'{name}'"):
        server.load(name)
    assert message in server.log.read_text()[before:]
    with pytest.raises(ServerError):
        server.ask(f"models/{name}/ready")
