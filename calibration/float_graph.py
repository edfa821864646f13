"""Float ONNX files as `export.build` makes them: what calibration starts from."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir


def read_float_graph(path: Path) -> ir.Model:
    """Return an FP32 or FP16 graph.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no ONNX model, or of another precision.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such ONNX file", str(path))
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf raises its own types, which differ between versions
        raise ValueError(f"'{path}' is no ONNX model: {error}") from error
    precision = model.metadata_props.get("precision", '"fp32"').strip('"')
    if precision not in ("fp32", "fp16"):
        raise ValueError(
            f"'{path}': expected a float graph in fp32 or fp16, got {precision}; build with --fp16"
        )
    return model


def read_input_size(model: ir.Model, path: Path) -> tuple[int, int]:
    """Return (height, width) of a graph's only input, `(B, H, W, 3)`.

    Raises:
        ValueError: naming the file, if it has no such input of fixed size.
    """
    inputs = model.graph.inputs
    shape = inputs[0].shape if len(inputs) == 1 else None
    sides = list(shape)[1:3] if shape is not None and len(shape) == 4 else []
    if len(sides) == 2 and all(isinstance(side, int) for side in sides):
        return int(str(sides[0])), int(str(sides[1]))
    raise ValueError(
        f"'{path}' has no single input (B, H, W, 3) of fixed size; give one that python -m "
        "export.build made"
    )
