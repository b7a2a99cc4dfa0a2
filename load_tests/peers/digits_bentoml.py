# /// script
# dependencies = ["bentoml==1.4.39", "onnxruntime==1.31.1", "numpy==2.4.6"]
# [tool.bench]
# title = "BentoML, as its docs do it"
# command = "bentoml serve digits_bentoml:Digits --port {port}"
# route = "/infer"
# ready = "/readyz"
# ///
"""BentoML with adaptive batching: `batchable=True`, a typed list in and a typed list out, everything else default."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from pydantic import BaseModel


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[int]


class Probabilities(Tensor):
    """One of floats."""

    data: list[float]


@bentoml.service
class Digits:
    """The model's service."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options)

    @bentoml.api(batchable=True)
    def infer(self, inputs: list[Tensor]) -> list[Probabilities]:
        """One answer for each request of the batch."""
        pictures = np.concatenate([np.array(tensor.data, np.uint8).reshape(tensor.shape) for tensor in inputs])
        (probabilities,) = self.session.run(["probabilities"], {"pictures": pictures})
        return [
            Probabilities(name="probabilities", shape=[1, 10], datatype="FP32", data=row)
            for row in probabilities.tolist()
        ]
