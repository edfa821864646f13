"""Read and write SegViT weights: our safetensors, official mmseg files and bare backbones.

Nothing is unpickled beyond tensors, plain containers and numpy scalars.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segvit import backbone_keys, key_maps
from segvit.config import VARIANTS, SegViTConfig
from segvit.model import HEADS, Provenance, SegViT, build_model
from segvit.vit import VisionTransformer, resize_pos_embed

OFFICIAL_LICENCE = "SegViT authors' weights: non-commercial use only"
OWN_LICENCE = "Apache-2.0"
_CLASS_BIAS = re.compile(r"decode_head\.(.+\.)?class_embed\.bias")

State = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A file that cannot be used as weights; the message says why and what to do."""


def load_checkpoint(path: str | Path, config: SegViTConfig | None = None) -> SegViT:
    """Return the model of a checkpoint, in evaluation mode, with its `provenance` filled in.

    Args:
        path: our `.safetensors`, an official mmsegmentation `.pth`, or backbone weights, which
            leave the decode head random: a ViT, DINOv2 or DINOv3 under timm's, Transformers' or its
            authors' names (`.pth`/`.safetensors`), or AugReg `.npz`.
        config: the model expected; None reads it from the file. The class count is the file's.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged, foreign, not finite, or does not fit the config.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint '{path}' does not exist")
    state, metadata = _read_file(path)
    _check_finite(path, state)
    if "config" in metadata:
        return _load_native(path, state, metadata, config)
    if any(key.startswith("decode_head.") for key in state):
        return _load_official(path, state, metadata, config)
    backbone = backbone_keys.strip_wrapper(state)
    if backbone is not None:
        return _load_backbone(path, backbone, config)
    first = next(iter(state), "none")
    raise CheckpointError(
        f"checkpoint '{path.name}' is no SegViT, timm ViT or AugReg file (first key: {first}); "
        "expected keys such as backbone.*, decode_head.* or blocks.*"
    )


def save_checkpoint(
    model: SegViT, path: str | Path, half: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights and the config as one safetensors file, replacing it only when complete.

    Args:
        half: store float16, half the size.
        metadata: further entries, such as `licence`.
    """
    path = Path(path)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    if half:
        state = {key: value.half() for key, value in state.items()}
    entries = {"config": model.config.to_json(), "licence": OWN_LICENCE, **(metadata or {})}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({key: value.contiguous() for key, value in state.items()}, temporary, entries)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_official(model: SegViT) -> State:
    """Return the weights under the official mmsegmentation names."""
    config = model.config
    return {key_maps.official_key(key, config): value for key, value in model.state_dict().items()}


def _read_file(path: Path) -> tuple[State, dict[str, Any]]:
    """Return the tensors of a file and what stands beside them."""
    readers: dict[str, Callable[[Path], tuple[State, dict[str, Any]]]] = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
    }
    try:
        return readers.get(path.suffix.lower(), _read_torch)(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint '{path.name}' holds more than tensors and plain containers and is not "
            f"loaded ({_first_line(error)}); save only its state dict and try again"
        ) from error
    except (
        SafetensorError,
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        RuntimeError,
        KeyError,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"checkpoint '{path.name}' cannot be read ({_first_line(error)}); "
            "it is truncated or no checkpoint, fetch it again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        return state, dict(file.metadata() or {})


def _read_npz(path: Path) -> tuple[State, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        if "embedding/kernel" not in arrays:
            raise CheckpointError(
                f"checkpoint '{path.name}' is no AugReg file: expected the array embedding/kernel"
            )
        return key_maps.read_augreg(dict(arrays)), {}


def _read_torch(path: Path) -> tuple[State, dict[str, Any]]:
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
    ]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint '{path.name}' holds no state dict")
    state = content
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), Mapping):
            state = content[name]
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    meta = content.get("meta")
    return tensors, {"mmseg": dict(meta)} if isinstance(meta, Mapping) else {}


def _check_finite(path: Path, state: State) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                f"checkpoint '{path.name}' has NaN or infinite values in '{key}'; "
                "the training diverged or the file is damaged, take an earlier checkpoint"
            )


def _load_native(
    path: Path, state: State, metadata: Mapping[str, str], config: SegViTConfig | None
) -> SegViT:
    try:
        own = SegViTConfig.from_json(metadata["config"])
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{path.name}': {error}") from error
    if (
        config is not None
        and replace(
            config,
            name=own.name,
            class_names=own.class_names,
            palette=own.palette,
            num_classes=own.num_classes,
        )
        != own
    ):
        raise CheckpointError(
            f"checkpoint '{path.name}' does not fit '{config.name}': it is '{own.name}', "
            f"try --model {own.name}"
        )
    return _fill(path, own, state, state.keys(), metadata.get("licence", "unknown"))


def _load_official(
    path: Path, state: State, metadata: Mapping[str, Any], config: SegViTConfig | None
) -> SegViT:
    state = {k: v for k, v in state.items() if not key_maps.OFFICIAL_IGNORED.fullmatch(k)}
    meta = metadata.get("mmseg", {})
    inferred = _infer_config(path.stem, state, meta)
    chosen = config or inferred
    if chosen is None:
        raise CheckpointError(
            f"checkpoint '{path.name}': a {_head_kind(state)} SegViT of its width, depth and "
            f"classes is none of the named variants ({', '.join(VARIANTS)}); give its config"
        )
    rows = _find_class_bias(state)
    if rows is not None and len(rows) - 1 != chosen.num_classes:
        chosen = replace(chosen, num_classes=len(rows) - 1, class_names=(), palette=())
    chosen = _named_classes(chosen, meta)
    renamed = {key_maps.official_key(key, chosen): key for key in build_keys(chosen)}
    mapped = {renamed.get(key, key): value for key, value in state.items()}
    better = inferred is not None and inferred.name in VARIANTS and inferred.name != chosen.name
    hint = f"try --model {inferred.name}" if inferred and better else ""
    return _fill(path, chosen, mapped, state.keys(), OFFICIAL_LICENCE, hint)


def _load_backbone(path: Path, state: State, config: SegViTConfig | None) -> SegViT:
    if config is None:
        raise CheckpointError(
            f"checkpoint '{path.name}' holds a backbone only; say which SegViT to build with it "
            "(--model NAME); its decode head will be random until trained"
        )
    gated = backbone_keys.find_gated_mlp(state)
    if gated:
        raise CheckpointError(
            f"checkpoint '{path.name}' has a gated (SwiGLU) MLP ('{gated}'); expected two linears "
            "with a GELU, give a small, base or large model"
        )
    model = build_model(config)
    unused = [key for key in state if backbone_keys.BACKBONE_IGNORED.match(key)]
    used = {key: value for key, value in state.items() if key not in unused}
    weights = backbone_keys.read_backbone(used, lacks_key_bias=config.position == "rotary")
    if config.position == "learned":
        _fit_positions(weights, model.backbone)
    mapped = {f"backbone.{key}": value for key, value in weights.items()}
    head = {k: v for k, v in model.state_dict().items() if k.startswith("decode_head.")}
    filled = _fill(path, config, mapped | head, state.keys(), "see the backbone's model card")
    assert filled.provenance is not None
    filled.provenance = replace(
        filled.provenance, random_parts=("decode_head",), unused_keys=tuple(unused)
    )
    return filled


def _fit_positions(weights: State, backbone: VisionTransformer) -> None:
    """Resize position embeddings that were made for another square grid."""
    pos_embed = weights.get("pos_embed")
    if pos_embed is None or pos_embed.shape == backbone.pos_embed.shape:
        return
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    if side**2 == pos_embed.shape[1] - 1:
        weights["pos_embed"] = resize_pos_embed(
            pos_embed.float(), (side, side), backbone.trained_grid, backbone.antialias
        )


def build_keys(config: SegViTConfig) -> dict[str, torch.Size]:
    """Return the keys and shapes of a config's state dict, without allocating its weights."""
    with torch.device("meta"):
        return {key: value.shape for key, value in SegViT(config).state_dict().items()}


def _fill(
    path: Path, config: SegViTConfig, state: State, found: Any, licence: str, hint: str = ""
) -> SegViT:
    """Return the model with these weights; every key must be there, known and of its shape."""
    expected = build_keys(config)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    faults = [f"{len(keys)} keys {kind} (first: {keys[0]})" for kind, keys in kinds if keys]
    if faults:
        fix = hint or "name the right one with --model"
        error = CheckpointError(
            f"checkpoint '{path.name}' does not fit '{config.name}': {', '.join(faults)} (all of "
            f"them with -v); {fix}"
        )
        for kind, keys in kinds:
            for key in keys:
                error.add_note(f"{kind}: {key}")
        raise error
    with torch.device("meta"):
        model = SegViT(config)
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model.provenance = Provenance(path.name, digest, licence)
    return model.requires_grad_(True).eval()


def _head_kind(state: State) -> str | None:
    return next((kind for kind, head in HEADS.items() if head.matches(state)), None)


def _find_class_bias(state: State) -> Tensor | None:
    """Return the bias of the class logits, which counts the classes, wherever its head has it."""
    return next((v for k, v in state.items() if _CLASS_BIAS.fullmatch(k)), None)


def _infer_config(name: str, state: State, meta: Mapping[str, Any]) -> SegViTConfig | None:
    """Return the config an official file was trained with, from its meta or from key shapes."""
    try:
        return SegViTConfig.from_mmseg(json.loads(meta["config"]), name)
    except (KeyError, TypeError, json.JSONDecodeError):
        pass  # Real files carry the config as Python source, which is never executed: use shapes.
    head = _head_kind(state)
    positions, classes = state.get("backbone.pos_embed"), _find_class_bias(state)
    if positions is None or classes is None:
        return None
    depth = len({m[1] for k in state if (m := re.match(r"backbone\.layers\.(\d+)\.", k))})
    image_size, num_classes = round((positions.shape[1] - 1) ** 0.5) * 16, len(classes) - 1
    wanted = (positions.shape[-1], depth, head)
    plain = [c for c in VARIANTS.values() if not c.keeps_prefix]
    family = [c for c in plain if (c.embed_dim, c.depth, c.head) == wanted]
    if not family:
        return None
    near = min(family, key=lambda c: (c.num_classes != num_classes, c.image_size != image_size))
    if near.num_classes == num_classes:
        return replace(near, image_size=image_size)
    return replace(near, image_size=image_size, num_classes=num_classes, class_names=(), palette=())


def _named_classes(config: SegViTConfig, meta: Mapping[str, Any]) -> SegViTConfig:
    """Return the config with the class names and palette the file carries, where they fit."""
    names, palette = meta.get("CLASSES") or (), meta.get("PALETTE") or ()
    if len(names) != config.num_classes or len(palette) != config.num_classes:
        return config
    colours = tuple((int(r), int(g), int(b)) for r, g, b in palette)
    return replace(config, class_names=tuple(map(str, names)), palette=colours)
