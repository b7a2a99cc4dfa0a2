# /// script
# dependencies = ["fastapi==0.163.2", "uvicorn[standard]==0.54.0", "onnxruntime==1.31.1", "numpy==2.4.6"]
# [tool.bench]
# title = "FastAPI, unbatched"
# command = "uvicorn digits_fastapi:app --port {port} --log-level warning"
# route = "/infer"
# ready = "/docs"
# ///
"""FastAPI with ONNX Runtime, a run per request: what most people write first. Its access log is off."""

import os
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[int]


class InferenceRequest(BaseModel):
    """One request."""

    inputs: list[Tensor]


options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["GRAPH"], options)
app = FastAPI()


@app.post("/infer")
async def infer(request: InferenceRequest) -> dict[str, Any]:
    """Probabilities of each picture."""
    (tensor,) = request.inputs
    pictures = np.array(tensor.data, np.uint8).reshape(tensor.shape)
    (probabilities,) = session.run(["probabilities"], {tensor.name: pictures})
    data = probabilities.ravel().tolist()
    return {
        "outputs": [{"name": "probabilities", "shape": probabilities.shape, "datatype": "FP32", "data": data}],
    }
