# /// script
# dependencies = [
#   "fastapi==0.163.2", "uvicorn[standard]==0.54.0", "onnxruntime==1.31.1", "numpy==2.4.6", "tokenizers==0.23.3",
#   "opencv-python-headless==5.0.0.93", "pillow==13.0.0",
# ]
# [tool.bench]
# title = "FastAPI, unbatched"
# command = "uvicorn sentiment_fastapi:app --port {port} --log-level warning"
# route = "/sentiment"
# ready = "/docs"
# ///
"""FastAPI with ONNX Runtime, a run per review at its own length. It tokenizes as deepserve."""

import os
from pathlib import Path

import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

from service.tasks.sentiment import ReviewReader, pad


class Reviews(BaseModel):
    """One request."""

    reviews: list[str]


graph = Path(os.environ["GRAPH"])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(graph, options)
reader = ReviewReader.of(graph.parent)
app = FastAPI()


@app.post("/sentiment")
async def sentiment(request: Reviews) -> dict[str, list[dict[str, float]]]:
    """The probability that each review is positive."""
    predictions = []
    for text in request.reviews:
        (probabilities,) = session.run(["probabilities"], {"tokens": pad([reader.read(text).ids])})
        predictions.append({"probability_positive": float(probabilities[0, 1])})
    return {"predictions": predictions}
