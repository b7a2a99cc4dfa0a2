# /// script
# dependencies = ["litserve==0.2.19", "onnxruntime==1.31.1", "numpy==2.4.6"]
# [tool.bench]
# title = "LitServe"
# command = "python digits_litserve.py {port}"
# route = "/predict"
# ready = "/health"
# restless = true
# ///
"""LitServe with its batching on, one worker; no longer wait for a batch than mosec's."""

import os
import sys
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime as ort


class Digits(ls.LitAPI):
    """The steps of one request; LitServe stacks what `decode_request` gives and hands `predict` the batch."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Loads the model in the worker."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options)

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """The picture, `[28, 28]`."""
        (tensor,) = request["inputs"]
        return np.array(tensor["data"], np.uint8).reshape(tensor["shape"])[0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities, `[n, 10]`."""
        (probabilities,) = self.session.run(["probabilities"], {"pictures": x})
        return probabilities

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """The answer for one row."""
        data = output.tolist()
        return {"outputs": [{"name": "probabilities", "shape": [1, 10], "datatype": "FP32", "data": data}]}


if __name__ == "__main__":
    server = ls.LitServer(Digits(max_batch_size=64, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
