"""The description of a SegViT model, and the table of named variants.

Sources: SegViT (arXiv 2210.05844), SegViTv2 (arXiv 2306.06289), DINOv2 (arXiv 2304.07193), its
registers (arXiv 2309.16588), DINOv3 (arXiv 2508.10104).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from segvit.classes import Rgb, distinct_palette, published_classes

Position = Literal["learned", "rotary"]


@dataclass(frozen=True)
class HeadRules:
    """What a kind of decode head asks of its config, and its name in mmsegmentation's.

    `shrinks` says that a block of the encoder keeps every second row and column of patches, and
    that the head restores them; `has_stages`, that it runs several stages on the same tokens.
    """

    mmseg_type: str
    shrinks: bool = False
    has_stages: bool = False


HEAD_RULES = {
    "cascade": HeadRules("ATMHead"),
    "single": HeadRules("ATMSingleHead", has_stages=True),
    "shrunk": HeadRules("TPNATMHead", shrinks=True),
}

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_HALF_RANGE = (127.5, 127.5, 127.5)

LANDCOVER_CLASSES: tuple[tuple[str, Rgb], ...] = (
    ("water", (28, 92, 168)),
    ("tree cover", (20, 110, 50)),
    ("shrub and savanna", (158, 160, 62)),
    ("grass", (176, 208, 120)),
    ("crop", (236, 150, 60)),
    ("barren", (214, 190, 150)),
    ("snow and ice", (240, 245, 255)),
)


@dataclass(frozen=True)
class SegViTConfig:
    """Everything needed to build a SegViT, normalise its input and colour its output.

    Sizes are in pixels, `tap_blocks` and `shrink_block` count encoder blocks from 0, `mean` and
    `std` are RGB on the 0-255 scale. The published figures come from windows of `image_size` every
    `stride`, on images whose short side is resized to `short_side` (None: `image_size` for both).

    What DINOv2 and DINOv3 have beside a plain ViT: with `keeps_prefix` the class token and
    `num_registers` registers pass through the blocks and are dropped from the taps; `layer_scale`
    gives each branch a learned scale a channel; `position` is an embedding added once, or a
    rotation of queries and keys in every block, whose longest wave `rope_theta` sets.

    Raises:
        ValueError: if the fields contradict each other; the message names the field.
    """

    name: str
    image_size: int
    embed_dim: int
    depth: int
    num_heads: int
    tap_blocks: tuple[int, ...]
    decoder_dim: int
    decoder_heads: int
    decoder_layers: int
    num_classes: int
    head: str = "cascade"
    shrink_block: int | None = None
    patch_size: int = 16
    mean: tuple[float, float, float] = _HALF_RANGE
    std: tuple[float, float, float] = _HALF_RANGE
    drop_path_rate: float = 0.0
    stride: int | None = None
    short_side: int | None = None
    keeps_prefix: bool = False
    num_registers: int = 0
    layer_scale: bool = False
    position: Position = "learned"
    rope_theta: float = 100.0
    norm_eps: float = 1e-6
    decoder_stages: int = 1
    class_names: tuple[str, ...] = field(default=(), repr=False)
    palette: tuple[Rgb, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % self.patch_size:
            raise self._invalid("image_size", f"a multiple of {self.patch_size}", self.image_size)
        if self.embed_dim % self.num_heads:
            raise self._invalid(
                "embed_dim", f"a multiple of {self.num_heads} heads", self.embed_dim
            )
        if self.decoder_dim % self.decoder_heads:
            expected = f"a multiple of {self.decoder_heads} decoder heads"
            raise self._invalid("decoder_dim", expected, self.decoder_dim)
        taps = self.tap_blocks
        if list(taps) != sorted(set(taps)) or not taps or not 0 <= taps[0] <= taps[-1] < self.depth:
            raise self._invalid("tap_blocks", f"ascending blocks below depth {self.depth}", taps)
        if not 1 <= self.num_classes <= 65535:
            raise self._invalid("num_classes", "1 to 65535", self.num_classes)
        self._check_head()
        self._check_encoder()
        for name in ("class_names", "palette"):
            count = len(getattr(self, name))
            if count not in (0, self.num_classes):
                raise self._invalid(name, f"{self.num_classes} entries", f"{count} entries")
        if not self.class_names:
            numbered = tuple(f"class {i}" for i in range(self.num_classes))
            object.__setattr__(self, "class_names", numbered)
        if not self.palette:
            object.__setattr__(self, "palette", distinct_palette(self.num_classes))

    def _check_head(self) -> None:
        """Refuse what the kind of decode head does not allow."""
        if self.head not in HEAD_RULES:
            raise self._invalid("head", f"one of {', '.join(HEAD_RULES)}", f"'{self.head}'")
        rules = HEAD_RULES[self.head]
        if rules.shrinks != (self.shrink_block is not None):
            raise self._invalid(
                "shrink_block", "set exactly when head is 'shrunk'", self.shrink_block
            )
        if self.decoder_stages < 1 or (self.decoder_stages > 1 and not rules.has_stages):
            expected = "1, or more with head 'single'"
            raise self._invalid("decoder_stages", expected, self.decoder_stages)
        if self.shrink_block is not None and not 0 < self.shrink_block < self.depth:
            raise self._invalid("shrink_block", f"1 to {self.depth - 1}", self.shrink_block)

    def _check_encoder(self) -> None:
        """Refuse encoder features that contradict each other."""
        if self.num_registers < 0:
            raise self._invalid("num_registers", "0 or more", self.num_registers)
        if self.num_registers and not self.keeps_prefix:
            raise self._invalid("num_registers", "0 without keeps_prefix", self.num_registers)
        if self.position not in ("learned", "rotary"):
            raise self._invalid("position", "'learned' or 'rotary'", f"'{self.position}'")
        rotary = self.position == "rotary"
        if rotary and self.embed_dim % (4 * self.num_heads):
            expected = f"a multiple of {4 * self.num_heads} with rotary positions (4 a head)"
            raise self._invalid("embed_dim", expected, self.embed_dim)
        if rotary and self.rope_theta <= 1:
            raise self._invalid("rope_theta", "above 1", self.rope_theta)
        if self.norm_eps <= 0:
            raise self._invalid("norm_eps", "positive", self.norm_eps)
        if HEAD_RULES[self.head].shrinks and (rotary or self.keeps_prefix):
            got = "rotary positions" if rotary else "keeps_prefix"
            expected = "'cascade' or 'single' (the Shrunk head samples a grid of patches alone)"
            raise self._invalid("head", f"{expected} with {got}", f"'{self.head}'")

    def _invalid(self, name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"config '{self.name}': {name} must be {expected}, got {got}")

    @property
    def grid_size(self) -> int:
        """Patches along one side of the training crop."""
        return self.image_size // self.patch_size

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches in every block: the class token and the registers, or none."""
        return 1 + self.num_registers if self.keeps_prefix else 0

    def to_json(self) -> str:
        """Return the config as one JSON object, readable by `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SegViTConfig:
        """Return the config that `to_json` wrote.

        Raises:
            ValueError: if the text is no such object.
        """
        try:
            values = json.loads(text)
            return cls(**{key: _as_tuple(value) for key, value in values.items()})
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"model config is not readable: {error}") from error

    @classmethod
    def from_mmseg(cls, model: Mapping[str, Any], name: str = "mmseg") -> SegViTConfig:
        """Return the config of an mmsegmentation `model` dictionary of the SegViT family.

        Raises:
            ValueError: if the backbone or head type is not one of SegViT's, or the dictionary
                asks for something no SegViT has (a final norm, another patch size than its own).
        """
        backbone, head = model["backbone"], model["decode_head"]
        kinds = {rules.mmseg_type: kind for kind, rules in HEAD_RULES.items()}
        if head["type"] not in kinds:
            expected = ", ".join(kinds)
            raise ValueError(
                f"mmseg decode_head type: expected one of {expected}, got {head['type']}"
            )
        if backbone.get("final_norm"):
            raise ValueError("mmseg backbone: final_norm=True is not a SegViT; expected False")
        kind = kinds[head["type"]]
        image_size = backbone["img_size"]
        image_size = image_size[0] if isinstance(image_size, Sequence) else image_size
        vit_b = backbone["embed_dims"] == 768
        return cls(
            name=name,
            image_size=image_size,
            patch_size=backbone["patch_size"],
            embed_dim=backbone["embed_dims"],
            depth=backbone["num_layers"],
            num_heads=backbone["num_heads"],
            tap_blocks=tuple(backbone["out_indices"]),
            decoder_dim=head["embed_dims"],
            decoder_heads=head["num_heads"],
            decoder_layers=head["num_layers"],
            num_classes=head["num_classes"],
            head=kind,
            decoder_stages=head.get("use_stages", 1) if HEAD_RULES[kind].has_stages else 1,
            shrink_block=backbone.get("shrink_idx"),
            mean=_IMAGENET_MEAN if vit_b else _HALF_RANGE,
            std=_IMAGENET_STD if vit_b else _HALF_RANGE,
            drop_path_rate=backbone.get("drop_path_rate", 0.0),
            stride=_first(model.get("test_cfg", {}).get("stride")),
        )


def find_variant(name: str) -> SegViTConfig:
    """Return the named variant.

    Raises:
        ValueError: if there is none of that name; the message lists them.
    """
    if name not in VARIANTS:
        raise ValueError(f"model '{name}' is unknown; expected one of: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, Sequence) else value


_ADE20K = published_classes("ade20k")
_COCO_STUFF10K = published_classes("coco_stuff10k")
_PASCAL_CONTEXT = published_classes("pascal_context")
_VIT_B_ADE20K = SegViTConfig(
    name="vit_b_ade20k",
    image_size=512,
    stride=341,
    embed_dim=768,
    depth=12,
    num_heads=12,
    tap_blocks=(5, 7, 11),
    decoder_dim=384,
    decoder_heads=12,
    decoder_layers=3,
    num_classes=150,
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
    drop_path_rate=0.1,
    class_names=_ADE20K[0],
    palette=_ADE20K[1],
)
_VIT_L_ADE20K = SegViTConfig(
    name="vit_l_ade20k",
    image_size=640,
    stride=608,
    embed_dim=1024,
    depth=24,
    num_heads=16,
    tap_blocks=(7, 15, 23),
    decoder_dim=512,
    decoder_heads=16,
    decoder_layers=3,
    num_classes=150,
    drop_path_rate=0.3,
    class_names=_ADE20K[0],
    palette=_ADE20K[1],
)
_VIT_L_COCO = replace(
    _VIT_L_ADE20K,
    name="vit_l_coco_stuff10k",
    image_size=512,
    stride=341,
    num_classes=171,
    class_names=_COCO_STUFF10K[0],
    palette=_COCO_STUFF10K[1],
)
_VIT_L_PASCAL = replace(
    _VIT_L_ADE20K,
    name="vit_l_pascal_context",
    image_size=480,
    stride=320,
    num_classes=60,
    short_side=520,
    class_names=_PASCAL_CONTEXT[0],
    palette=_PASCAL_CONTEXT[1],
)
_VIT_T_LANDCOVER = SegViTConfig(
    name="vit_t_landcover",
    image_size=256,
    stride=248,
    embed_dim=160,
    depth=6,
    num_heads=5,
    tap_blocks=(2, 3, 5),
    decoder_dim=96,
    decoder_heads=3,
    decoder_layers=2,
    num_classes=7,
    class_names=tuple(name for name, _ in LANDCOVER_CLASSES),
    palette=tuple(colour for _, colour in LANDCOVER_CLASSES),
)
_DINOV2_B_ADE20K = replace(
    _VIT_B_ADE20K,
    name="dinov2_b_ade20k",
    patch_size=14,
    image_size=518,
    stride=345,
    keeps_prefix=True,
    layer_scale=True,
)
_DINOV2_S_ADE20K = replace(
    _DINOV2_B_ADE20K,
    name="dinov2_s_ade20k",
    embed_dim=384,
    num_heads=6,
    decoder_dim=192,
    decoder_heads=6,
)
# What ViT-L has instead of ViT-B's, whatever the pretraining.
_LARGE: dict[str, Any] = {
    "embed_dim": 1024,
    "depth": 24,
    "num_heads": 16,
    "tap_blocks": (7, 15, 23),
    "decoder_dim": 512,
    "decoder_heads": 16,
    "drop_path_rate": 0.3,
}
_DINOV3_B_ADE20K = replace(
    _VIT_B_ADE20K,
    name="dinov3_b_ade20k",
    keeps_prefix=True,
    num_registers=4,
    layer_scale=True,
    position="rotary",
    norm_eps=1e-5,
)
_DINOV2_T_LANDCOVER = replace(
    _VIT_T_LANDCOVER,
    name="dinov2_t_landcover",
    keeps_prefix=True,
    num_registers=4,
    layer_scale=True,
)


def _shrunk(full: SegViTConfig, name: str, shrink_block: int) -> SegViTConfig:
    """Return the Shrunk form: one tap before the query-based downsampling, one at the end."""
    taps = (shrink_block - 1, full.depth - 1)
    return replace(full, name=name, head="shrunk", shrink_block=shrink_block, tap_blocks=taps)


VARIANTS: dict[str, SegViTConfig] = {
    config.name: config
    for config in (
        _VIT_B_ADE20K,
        _VIT_L_ADE20K,
        _shrunk(_VIT_L_ADE20K, "vit_l_shrunk_ade20k", 8),
        _VIT_L_COCO,
        _shrunk(_VIT_L_COCO, "vit_l_shrunk_coco_stuff10k", 8),
        _VIT_L_PASCAL,
        _shrunk(_VIT_L_PASCAL, "vit_l_shrunk_pascal_context", 8),
        _VIT_T_LANDCOVER,
        _shrunk(_VIT_T_LANDCOVER, "vit_t_shrunk_landcover", 3),
        _DINOV2_S_ADE20K,
        _DINOV2_B_ADE20K,
        replace(_DINOV2_B_ADE20K, name="dinov2_b_reg_ade20k", num_registers=4),
        replace(_DINOV2_B_ADE20K, name="dinov2_l_ade20k", **_LARGE),
        _DINOV3_B_ADE20K,
        replace(_DINOV3_B_ADE20K, name="dinov3_l_ade20k", **_LARGE),
        _DINOV2_T_LANDCOVER,
    )
}
