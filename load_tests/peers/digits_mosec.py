# /// script
# dependencies = ["mosec==0.9.8", "onnxruntime==1.31.1", "numpy==2.4.6"]
# [tool.bench]
# title = "mosec"
# command = "python digits_mosec.py --address 127.0.0.1 --port {port}"
# route = "/inference"
# ready = "/"
# rows = "mosec_service_batch_size"
# ///
"""mosec as its examples have it: a front door in Rust, and a worker in Python that is handed whole batches."""

import os
from typing import Any

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker


class Digits(Worker):
    """The model's worker; JSON in and out is mosec's default."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options)

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each request of the batch."""
        tensors = [request["inputs"][0] for request in data]
        pictures = np.concatenate([np.array(tensor["data"], np.uint8).reshape(tensor["shape"]) for tensor in tensors])
        (probabilities,) = self.session.run(["probabilities"], {"pictures": pictures})
        return [
            {"outputs": [{"name": "probabilities", "shape": [1, 10], "datatype": "FP32", "data": row}]}
            for row in probabilities.tolist()
        ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Digits, num=1, max_batch_size=64, max_wait_time=2)
    server.run()
