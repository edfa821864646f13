"""A Triton back end named `onnxruntime`: what answers for the C++ one, which no wheel holds.

It runs inside of the server's own Python process, on the repository's `model.onnx`.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # the server puts it on the path


class TritonPythonModel:
    """The requests that the server's scheduler put together are run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        self.is_batched = config["max_batch_size"] > 0

    def execute(self, requests: list) -> list:
        images = [pb_utils.get_input_tensor_by_name(r, self.input).as_numpy() for r in requests]
        if self.is_batched:
            ends = np.cumsum([len(part) for part in images])[:-1]
            outputs = np.split(self._run(np.concatenate(images)), ends)
        else:
            outputs = [self._run(part) for part in images]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.output, np.ascontiguousarray(part))])
            for part in outputs
        ]

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input: images})[0]
