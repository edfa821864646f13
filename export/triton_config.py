"""The `config.pbtxt` of a Triton model: what the server has to know of an artifact's graph.

Field names and their meaning: Triton's `model_config.proto`. A graph with a range of batches is
declared without its batch dimension, which the server then fills from several requests; one with a
fixed batch is declared with all its dimensions, and the server passes requests on as they come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from export.manifest import Manifest, TensorSpec

Field = str | int | bool | Mapping[str, "Field"] | Sequence["Field"]
_DATATYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
_LATEST, _ALL = "latest", "all"
VERSION_POLICIES = (_LATEST, _ALL)
DEFAULT_QUEUE_DELAY_US = 1000


class Keyword(str):
    """A word of the configuration that stands without quotes, such as `TYPE_UINT8`."""


@dataclass(frozen=True)
class Serving:
    """How the server is to run a model.

    Args:
        backend: Triton's name of what runs the file.
        kind: where instances run, as Triton spells it: `KIND_GPU`, `KIND_CPU` or `KIND_AUTO`.
        instances: on each GPU, or on the CPU.
        batched: whether the server may put requests together.
        max_queue_delay_us: how long a request may wait for others, in microseconds.
        version_policy: `latest` serves the highest version alone, `all` each of them.
        cc_files: file by compute capability (`8.9`) where there is one a GPU.
        parameters: to ride along, beside what the manifest says.
    """

    backend: str
    kind: str
    instances: int = 1
    batched: bool = False
    max_queue_delay_us: int = DEFAULT_QUEUE_DELAY_US
    version_policy: str = _LATEST
    cc_files: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


def format_contract(name: str, manifest: Manifest, serving: Serving) -> str:
    """Return the part of the configuration that all versions of a model have to share.

    Raises:
        ValueError: if Triton has no name for a tensor's type.
    """
    output = manifest.outputs[0]
    files = [{"key": key, "value": file} for key, file in serving.cc_files.items()]
    return format_message(
        {
            "name": name,
            "backend": serving.backend,
            "max_batch_size": manifest.batch[2] if serving.batched else 0,
            "input": [_describe_tensor(manifest.input, serving.batched)],
            "output": [_describe_tensor(output, serving.batched)],
            "cc_model_filenames": files,
            "parameters": [_parameter("classes", json.dumps(manifest.classes, ensure_ascii=False))],
        }
    )


def format_settings(manifest: Manifest, serving: Serving) -> str:
    """Return the rest: batching, instances, warm-up, and what clients may want to read."""
    _, typical, largest = manifest.batch
    policy = {"num_versions": 1} if serving.version_policy == _LATEST else {}
    settings: dict[str, Field] = {
        "version_policy": {serving.version_policy: policy},
        "instance_group": [{"count": serving.instances, "kind": Keyword(serving.kind)}],
    }
    if serving.batched:
        settings["dynamic_batching"] = {
            # What the engine was tuned for, and the most it takes.
            "preferred_batch_size": sorted({typical, largest} - {1}),
            "max_queue_delay_microseconds": serving.max_queue_delay_us,
        }
    sizes = sorted({1, typical, largest}) if serving.batched else [1]
    settings["model_warmup"] = [_describe_warmup(manifest, serving.batched, n) for n in sizes]
    values = {
        "palette": json.dumps(manifest.palette),
        "licence": manifest.model.licence,
        "model": manifest.model.name,
        "precision": manifest.precision,
        **serving.parameters,
    }
    settings["parameters"] = [_parameter(key, value) for key, value in values.items()]
    return format_message(settings)


def format_message(fields: Mapping[str, Field], indent: str = "") -> str:
    """Return fields as protobuf's text format, one a line; a list repeats its field."""
    lines = []
    for name, value in fields.items():
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        for item in value if isinstance(value, Sequence) and is_list else [value]:
            if isinstance(item, Mapping):
                lines.append(
                    f"{indent}{name} {{\n{format_message(item, indent + '  ')}{indent}}}\n"
                )
            else:
                lines.append(f"{indent}{name}: {_format_scalar(item)}\n")
    return "".join(lines)


def _format_scalar(value: Field) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Keyword | int):
        return str(value)
    # Octal escapes are read by every version of protobuf, and no byte can end the string early.
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\"}
    data = str(value).encode()
    plain = (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in data)
    return '"' + "".join(escapes.get(b, text) for b, text in zip(data, plain, strict=True)) + '"'


def _describe_tensor(spec: TensorSpec, batched: bool) -> dict[str, Field]:
    return {"name": spec.name, "data_type": _datatype(spec), "dims": _dims(spec, batched)}


def _describe_warmup(manifest: Manifest, batched: bool, batch_size: int) -> dict[str, Field]:
    """Return a request of noise; a dimension that stays open is what the engine was tuned for."""
    spec, typical = manifest.input, manifest.batch[1]
    dims = [typical if size == -1 else size for size in _dims(spec, batched)]
    noise: dict[str, Field] = {"data_type": _datatype(spec), "dims": dims, "random_data": True}
    return {
        "name": f"{batch_size} of noise",
        "batch_size": batch_size,
        "inputs": [{"key": spec.name, "value": noise}],
    }


def _dims(spec: TensorSpec, batched: bool) -> list[int]:
    sizes = spec.shape[1:] if batched else spec.shape
    return [-1 if isinstance(size, str) else size for size in sizes]


def _datatype(spec: TensorSpec) -> Keyword:
    if spec.dtype not in _DATATYPES:
        raise ValueError(
            f"tensor '{spec.name}' is of type {spec.dtype}: expected one of "
            f"{', '.join(_DATATYPES)}; build the artifact again with python -m export.build"
        )
    return Keyword(_DATATYPES[spec.dtype])


def _parameter(key: str, value: str) -> dict[str, Field]:
    return {"key": key, "value": {"string_value": value}}
