"""Checkpoints of every kind, and what is said of those that cannot be used."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segvit.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, to_official
from segvit.config import find_variant
from segvit.model import SegViT, build_model
from segvit.vit import resize_pos_embed
from tests.tiny_models import GOLDEN, make_config, make_model

HEADS = ("cascade", "single", "shrunk")


def _same_weights(first: SegViT, second: SegViT) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("head", HEADS)
def test_native_round_trip(head: str, tmp_path: Path) -> None:
    model = make_model(make_config(head))
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert _same_weights(model, loaded)
    assert not loaded.training
    assert loaded.provenance is not None
    assert loaded.provenance.licence == "Apache-2.0"
    assert len(loaded.provenance.sha256) == 64


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = make_model(make_config())
    save_checkpoint(model, tmp_path / "full.safetensors")
    save_checkpoint(model, tmp_path / "half.safetensors", half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.55 * full
    loaded = load_checkpoint(tmp_path / "half.safetensors")
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float())


@pytest.mark.parametrize(("head", "stages"), [*((head, 1) for head in HEADS), ("single", 3)])
def test_official_round_trip(head: str, stages: int, tmp_path: Path) -> None:
    model = make_model(make_config(head, decoder_stages=stages))
    torch.save({"meta": {}, "state_dict": to_official(model)}, tmp_path / "official.pth")
    loaded = load_checkpoint(tmp_path / "official.pth", model.config)
    assert _same_weights(model, loaded)


@pytest.mark.parametrize(
    ("file", "head", "stages"),
    [
        ("base_s0", "cascade", 1),
        ("single_s0", "single", 1),
        ("single_s3", "single", 3),
        ("shrunk_s0", "shrunk", 1),
    ],
)
def test_official_files_state_their_licence_and_config(file: str, head: str, stages: int) -> None:
    model = load_checkpoint(GOLDEN / f"{file}.pth")
    config = model.config
    assert (config.head, config.decoder_stages, config.num_classes) == (head, stages, 7)
    assert model.provenance is not None
    assert "non-commercial" in model.provenance.licence


@pytest.mark.slow
def test_variant_and_class_count_are_read_from_the_shapes(tmp_path: Path) -> None:
    """A file without a config, as the published ones: 60 classes of PASCAL-Context made 59."""
    config = replace(find_variant("vit_b_ade20k"), num_classes=20, class_names=(), palette=())
    state = to_official(build_model(config))
    state["decode_head.loss_decode.criterion.empty_weight"] = torch.ones(21)
    names = tuple(f"thing {i}" for i in range(20))
    meta = {"CLASSES": names, "PALETTE": [[i, 2 * i, 3 * i] for i in range(20)], "epoch": 3}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "finetuned.pth")
    loaded = load_checkpoint(tmp_path / "finetuned.pth").config
    assert (loaded.name, loaded.num_classes, loaded.image_size) == ("vit_b_ade20k", 20, 512)
    assert loaded.class_names == names
    assert loaded.palette[3] == (3, 6, 9)


def _timm_state(model: SegViT) -> dict[str, torch.Tensor]:
    state = {
        key.replace("patch_embed.", "patch_embed.proj."): value.detach().clone()
        for key, value in model.backbone.state_dict().items()
    }
    return state | {"norm.weight": torch.ones(48), "head.weight": torch.zeros(1000, 48)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_backbones(suffix: str, tmp_path: Path) -> None:
    model, path = make_model(make_config()), tmp_path / f"vit{suffix}"
    state = _timm_state(model)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load_checkpoint(path, model.config)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[key], value)
    assert loaded.provenance is not None
    assert loaded.provenance.random_parts == ("decode_head",)
    assert set(loaded.provenance.unused_keys) == {"norm.weight", "head.weight"}


def test_backbone_positions_are_resized(tmp_path: Path) -> None:
    """Weights made for a 6x6 grid in a model with a 4x4 one."""
    large = make_model(make_config(image_size=96))
    torch.save(_timm_state(large), tmp_path / "vit.pth")
    loaded = load_checkpoint(tmp_path / "vit.pth", make_config())
    expected = resize_pos_embed(large.backbone.pos_embed, (6, 6), (4, 4))
    assert torch.equal(loaded.backbone.pos_embed, expected)


def _refused(path: Path, message: str, head: str | None = None) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, make_config(head) if head else None)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint '.*none.pth' does not exist"):
        load_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(5000)])
def test_foreign_bytes(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    _refused(path, f"checkpoint 'broken{suffix}'")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files(share: float, tmp_path: Path) -> None:
    save_checkpoint(make_model(make_config()), tmp_path / "whole.safetensors")
    for whole in (tmp_path / "whole.safetensors", GOLDEN / "base_s0.pth"):
        content = whole.read_bytes()
        path = tmp_path / f"cut{whole.suffix}"
        path.write_bytes(content[: int(len(content) * share)])
        _refused(path, "it is truncated or no checkpoint, fetch it again")


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("attacked"),)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": _Attack()}, "zip.pth")
    Path("plain.pth").write_bytes(pickle.dumps(_Attack()))
    for name in ("zip.pth", "plain.pth"):
        _refused(tmp_path / name, "more than tensors and plain containers and is not loaded")
    assert not Path("attacked").exists()


def test_not_finite(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        state = torch.load(GOLDEN / "base_s0.pth", weights_only=True)
        state["state_dict"]["decode_head.class_embed.bias"][2] = value
        torch.save(state, tmp_path / "bad.pth")
        _refused(tmp_path / "bad.pth", "NaN or infinite values in 'decode_head.class_embed.bias'")


def test_other_networks(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    _refused(tmp_path / "resnet.pth", r"no SegViT, timm ViT or AugReg file \(first key: layer1")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    _refused(tmp_path / "list.pth", "holds no state dict")
    np.savez(tmp_path / "arrays.npz", weight=np.zeros(3))
    _refused(tmp_path / "arrays.npz", "expected the array embedding/kernel")


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = to_official(make_model(make_config()))
    del state["decode_head.q.weight"], state["backbone.cls_token"]
    state["decode_head.extra"] = torch.zeros(1)
    state["backbone.layers.0.ln1.bias"] = torch.zeros(7)
    torch.save({"state_dict": state}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "odd.pth", make_config())
    message = str(caught.value)
    assert re.search(r"2 keys missing \(first: \S+\)", message)
    assert "1 keys unexpected (first: decode_head.extra)" in message
    assert "backbone.blocks.0.norm1.bias (7,) instead of (48,)" in message
    # What -v prints below the traceback.
    assert caught.value.__notes__ == [
        "missing: backbone.cls_token",
        "missing: decode_head.query_embed.weight",
        "unexpected: decode_head.extra",
        "misshapen: backbone.blocks.0.norm1.bias (7,) instead of (48,)",
    ]


def test_shrunk_weights_into_a_cascade(tmp_path: Path) -> None:
    _refused(GOLDEN / "shrunk_s0.pth", "does not fit 'tiny_cascade': .* keys missing", "cascade")
    save_checkpoint(make_model(make_config("shrunk")), tmp_path / "shrunk.safetensors")
    _refused(tmp_path / "shrunk.safetensors", "it is 'tiny_shrunk', try --model", "cascade")


def test_a_backbone_needs_a_model(tmp_path: Path) -> None:
    torch.save(_timm_state(make_model(make_config())), tmp_path / "vit.pth")
    _refused(tmp_path / "vit.pth", r"holds a backbone only; say which SegViT .*--model NAME")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_model(make_config()), path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segvit.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(make_model(make_config(), seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
