# /// script
# dependencies = ["nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "numpy==1.26.4"]
# [tool.bench]
# title = "Triton, by PyTriton"
# command = "python digits_triton.py {port} {second} {third}"
# route = "/v2/models/digits/infer"
# ready = "/v2/models/digits/ready"
# [tool.bench.environment]
# LD_LIBRARY_PATH = "{libraries}"
# ///
"""Triton Inference Server with its dynamic batcher, the model behind its Python backend: what pip can install of it."""

import os
import sys

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["GRAPH"], options)


@batch
def infer(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities of each picture of the batch."""
    (probabilities,) = session.run(["probabilities"], {"pictures": pictures})
    return {"probabilities": probabilities}


http, grpc, metrics = map(int, sys.argv[1:])
with Triton(
    config=TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
) as triton:
    triton.bind(
        model_name="digits",
        infer_func=infer,
        inputs=[Tensor(name="pictures", dtype=np.uint8, shape=(28, 28))],
        outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(10,))],
        config=ModelConfig(max_batch_size=64),
    )
    triton.serve()
