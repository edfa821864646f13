"""Parameters and MACs of the published variants, from the command's own output."""

import json
from pathlib import Path

import pytest

from segvit.checkpoint import save_checkpoint
from segvit.cli import run_main
from segvit.config import VARIANTS, find_variant
from segvit.info import describe_model, main
from segvit.macs import count_macs
from tests.tiny_models import GOLDEN, make_config, make_model

# Name, published GMACs, class count they are of, parameters, the golden counts' key.
PUBLISHED = [
    ("vit_b_ade20k", 120.9, 150, 108_736_279, "vit-b_512_ade"),
    ("vit_l_ade20k", 637.9, 150, 344_305_303, "vit-l_640_ade"),
    ("vit_l_shrunk_ade20k", 373.5, 150, 344_598_679, "vit-l_shrunk_640_ade"),
    ("vit_l_coco_stuff10k", 383.9, 171, 343_737_004, "vit-l_512_coco"),
    ("vit_l_shrunk_coco_stuff10k", 224.8, 171, 343_735_468, "vit-l_shrunk_512_coco"),
    ("vit_l_pascal_context", 321.6, 59, 343_496_253, "vit-l_480_pc"),
    ("vit_l_shrunk_pascal_context", 186.9, 60, 343_431_229, "vit-l_shrunk_480_pc"),
]


@pytest.mark.parametrize(("name", "gmacs", "classes", "parameters", "_key"), PUBLISHED)
def test_published_figures(
    capsys: pytest.CaptureFixture[str],
    name: str, gmacs: float, classes: int, parameters: int, _key: str,
) -> None:  # fmt: skip
    assert main(["--model", name, "--num-classes", str(classes), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert round(counted["macs"]["total"] / 1e9, 1) == gmacs
    assert counted["macs"]["total"] == sum(
        count for part, count in counted["macs"].items() if part != "total"
    )
    main(["--model", name, "--json"])
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] == parameters


@pytest.mark.parametrize(("name", "_gmacs", "_classes", "_parameters", "key"), PUBLISHED)
def test_parts_are_the_original_s(
    name: str, _gmacs: float, _classes: int, _parameters: int, key: str
) -> None:
    config = find_variant(name)
    golden = json.loads((GOLDEN / "fullscale" / "flops.json").read_text())[key]
    report = describe_model(config)
    backbone = sum(report["parameters"][part] for part in ("patch_embed", "blocks", "embeddings"))
    assert backbone == golden["backbone"]
    assert report["parameters"]["decode_head"] == golden["head"]
    counted = golden["flops"][str(config.image_size)]["by_module_G"]
    macs = count_macs(config)
    # The original normalises the downsampling block's tokens twice: 0.01 GMAC we do not spend.
    tolerance = 1.1e-2 if config.shrink_block else 1e-6
    ours = (macs["patch_embed"] + macs["blocks"]) / 1e9
    assert ours == pytest.approx(counted["backbone"], abs=tolerance)
    assert macs["patch_embed"] / 1e9 == pytest.approx(counted["backbone.patch_embed"], abs=1e-9)
    if config.head == "cascade":
        assert macs["decode_head"] / 1e9 == pytest.approx(counted["decode_head"], abs=1e-9)


def test_fewer_tokens_cost_less() -> None:
    full, shrunk = (count_macs(make_config(head)) for head in ("cascade", "shrunk"))
    assert shrunk["blocks"] < full["blocks"]
    assert shrunk["patch_embed"] == full["patch_embed"]


def test_text_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "vit_l_shrunk_ade20k"]) == 0
    printed = capsys.readouterr().out
    assert "downsampled in block 8" in printed
    assert "344,598,679" in printed
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(VARIANTS)
    assert main(["--list", "--json"]) == 0
    assert [report["model"] for report in json.loads(capsys.readouterr().out)] == list(VARIANTS)


# Parameters of Dinov2Model (with four registers more) and DINOv3ViTModel of Transformers, at full
# size; beside: the final norm and mask token that we lack, the key biases that DINOv3 lacks.
@pytest.mark.parametrize(
    ("name", "published", "beside"),
    [
        ("dinov2_b_ade20k", 86_580_480, -3 * 768),
        ("dinov2_b_reg_ade20k", 86_583_552, -3 * 768),
        ("dinov3_b_ade20k", 85_660_416, -3 * 768 + 12 * 768),
    ],
)
def test_parameters_of_other_backbones(name: str, published: int, beside: int) -> None:
    counted = describe_model(find_variant(name))["parameters"]
    backbone = sum(counted[part] for part in ("patch_embed", "blocks", "embeddings"))
    assert backbone == published + beside


def test_prefix_tokens_are_counted() -> None:
    plain, prefixed = (
        count_macs(make_config(**changes))
        for changes in ({}, {"keeps_prefix": True, "num_registers": 4})
    )

    # 16 tokens of width 48, then 21, through four blocks.
    def of_blocks(tokens: int) -> int:
        return 4 * (12 * tokens * 48**2 + 2 * tokens**2 * 48 + 10 * tokens * 48)

    assert (plain["blocks"], prefixed["blocks"]) == (of_blocks(16), of_blocks(21))
    assert {part: count for part, count in plain.items() if part != "blocks"} == {
        part: count for part, count in prefixed.items() if part != "blocks"
    }


def test_text_names_the_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "dinov3_b_ade20k"]) == 0
    assert "512 px, 5 prefix tokens, rotary positions" in capsys.readouterr().out


def test_a_checkpoint_describes_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_checkpoint(make_model(make_config("single")), tmp_path / "model.safetensors")
    assert main(["--checkpoint", str(tmp_path / "model.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "tiny_single" in printed
    assert "licence: Apache-2.0" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--num-classes", "0"], 1, "num_classes must be 1 to 65535, got 0"),
        (["--checkpoint", "none.pth"], 1, "checkpoint 'none.pth' does not exist"),
        (["--model", "vit_x"], 2, "invalid choice: 'vit_x'"),
        (["--model", "vit_b_ade20k", "--list"], 2, "not allowed with"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(main, arguments)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
