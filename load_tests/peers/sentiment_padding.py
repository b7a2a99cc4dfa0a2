# /// script
# dependencies = [
#   "fastapi==0.163.2", "uvicorn[standard]==0.54.0", "onnxruntime==1.31.1", "numpy==2.4.6", "tokenizers==0.23.3",
#   "opencv-python-headless==5.0.0.93", "pillow==13.0.0",
# ]
# [tool.bench]
# title = "batches padded to the longest"
# command = "uvicorn sentiment_padding:app --port {port} --log-level warning"
# route = "/sentiment"
# ready = "/docs"
# ///
"""FastAPI with the batcher that everybody writes: take what waits, pad to the longest. It tokenizes as deepserve."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
waiting: asyncio.Queue[tuple[list[int], asyncio.Future[float]]] = asyncio.Queue()


async def work() -> None:
    """Runs whatever waits, 64 reviews at most, one batch after the other."""
    while True:
        batch = [await waiting.get()]
        while len(batch) < 64 and not waiting.empty():
            batch.append(waiting.get_nowait())
        tokens = pad([ids for ids, _ in batch])
        (probabilities,) = await asyncio.to_thread(session.run, ["probabilities"], {"tokens": tokens})
        for (_, answer), row in zip(batch, probabilities.tolist(), strict=True):
            answer.set_result(row[1])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """The batcher lives as long as the app."""
    task = asyncio.create_task(work())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/sentiment")
async def sentiment(request: Reviews) -> dict[str, list[dict[str, float]]]:
    """The probability that each review is positive."""
    answers = []
    for text in request.reviews:
        answers.append(asyncio.get_running_loop().create_future())
        waiting.put_nowait((reader.read(text).ids, answers[-1]))
    return {"predictions": [{"probability_positive": positive} for positive in await asyncio.gather(*answers)]}
