"""What a manifest is made of: the model, its tensors, the engines, their audits, the parity."""

from __future__ import annotations

from dataclasses import dataclass, field

from export.parity_record import ClassParity, Interval


@dataclass(frozen=True)
class ModelInfo:
    """Which model was exported, and under which licence its weights stand.

    `crop` and `stride` are pixels of its published sliding windows, `short_side` those of an image
    before; `mean` and `std` are RGB on the 0-255 scale, for those who pad images: the graph
    normalises by itself.
    """

    name: str
    parameters: int
    licence: str
    random_weights: bool = False
    checkpoint_sha256: str | None = None
    crop: int | None = None
    stride: int | None = None
    short_side: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; a dynamic dimension is a name, such as `batch`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class PartSummary:
    """What one part of the network (encoder, head, tail …) costs in an engine."""

    kernels: int
    traffic_mb: float | None


@dataclass(frozen=True)
class AuditSummary:
    """The figures of an engine's audit; megabytes are 10**6 bytes.

    `traffic_mb` is None where a dynamic batch leaves sizes open. `float_sums` counts the fused
    attentions that sum in FP32, None where the engine does not tell; `unaudited` says what of the
    engine the audit cannot vouch for, as allowed; `budget` compares it with the stored figures.
    """

    kernels: int
    attentions: int
    fused_attentions: int
    traffic_mb: float | None
    activation_mb: float | None
    gemm_datatypes: dict[str, int]
    parts: dict[str, PartSummary] = field(default_factory=dict)
    unfused: tuple[str, ...] = ()
    float_sums: int | None = None
    unaudited: tuple[str, ...] = ()
    budget: str = ""


@dataclass(frozen=True)
class BuiltTarget:
    """One engine (or the ONNX file itself for ONNX Runtime) and where it may run."""

    target: str
    version: str
    compute_capabilities: tuple[str, ...]
    file: str
    audit: AuditSummary | None = None
    layers: str | None = None
    build_seconds: float | None = None


@dataclass(frozen=True)
class MissingTarget:
    """A target that was not built, and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class WorstCase:
    """How close the graph comes where an engine computes it less exactly than it is written.

    Figures that random weights make meaningless, or that are not finite, are None.
    """

    name: str
    images: int
    pixel_agreement: float | None = None
    miou_reference: float | None = None
    miou: float | None = None
    max_class_iou_drop: float | None = None
    max_score_error: float | None = None
    score_rms: float | None = None


@dataclass(frozen=True)
class Parity:
    """How close the exported graph comes to the reference on real images, as a manifest keeps it.

    The label figures are None where random weights make labels meaningless. `foreign_images` says
    that the images are not of the kind that the model's classes were made for.
    """

    images: int
    pixel_agreement: float | None = None
    miou_reference: float | None = None
    miou: float | None = None
    max_class_iou_drop: float | None = None
    max_score_error: float | None = None
    details: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    independent_pixels: int | None = None
    images_with_masks: int = 0
    pixel_agreement_interval: Interval | None = None
    miou_drop_interval: Interval | None = None
    score_rms_interval: Interval | None = None
    worst_class: str | None = None
    worst_class_recall: float | None = None
    classes: tuple[ClassParity, ...] = ()
    ungated_classes: tuple[str, ...] = ()
    unexercised_classes: tuple[str, ...] = ()
    foreign_images: bool = False
    worst_case: WorstCase | None = None


@dataclass(frozen=True)
class ValueRange:
    """How large the values of one layer become on the verification images.

    `headroom_bits` is how often they could double within `datatype`; None where all are zero.
    """

    kind: str
    layer: str
    largest: float
    datatype: str
    headroom_bits: float | None = None
