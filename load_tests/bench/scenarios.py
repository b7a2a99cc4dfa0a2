"""What the servers are asked: real pictures and real reviews, and ONNX Runtime's own answers to hold theirs against."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from load_tests import inputs
from load_tests.subjects import ROOT
from service.engine.onnx.runtime import ort
from service.registry.card import GRAPHS, Card
from service.tasks.sentiment import ReviewReader, pad

MODELS = ROOT / "models"
BODIES = 512
"""Different requests of a scenario; wrk sends them in turn."""
CHECKED = 64
"""Requests whose answers are compared, all sent at once."""
TOLERANCE = 1e-3


class WrongAnswer(Exception):
    """A server does not answer as ONNX Runtime does; the message says how."""


@dataclass(frozen=True)
class Scenario:
    """One model, `BODIES` requests of a row each, and what the answers must hold."""

    name: str
    graph: Path
    """The file that deepserve serves on CPU, and with it everybody else."""
    route: str
    """Deepserve's."""
    bodies: list[bytes]
    """JSON."""
    inputs: list[npt.NDArray[np.generic]]
    """Each body as the graph's input, `[1, ...]`."""
    read: Callable[[Any], Sequence[float]]
    """Takes the probabilities out of an answer."""
    first: int
    """The column of the graph's output at which they start."""
    connections: tuple[int, ...]
    """How many clients ask at once, from few to many."""
    least_seconds: int
    """Shorter than this, a measurement would hold too few answers."""

    def check(self, url: str) -> None:
        """Posts `CHECKED` bodies at once and compares the answers with ONNX Runtime's own, one row at a time.

        Raises:
            WrongAnswer: one differs by more than `TOLERANCE`, or is an error.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(self.graph, options)
        (name,) = (tensor.name for tensor in session.get_inputs())
        expected = [session.run(["probabilities"], {name: rows})[0][0, self.first :] for rows in self.inputs[:CHECKED]]
        with ThreadPoolExecutor(CHECKED) as pool, httpx.Client(limits=httpx.Limits(), timeout=60) as client:
            answers = list(pool.map(partial(self._ask, client, url), self.bodies[:CHECKED]))
        for row, (answer, right) in enumerate(zip(answers, expected, strict=True)):
            if not np.allclose(answer, right, rtol=0, atol=TOLERANCE):
                raise WrongAnswer(f"request {row} was answered {answer}, ONNX Runtime says {right.tolist()}")

    def _ask(self, client: httpx.Client, url: str, body: bytes) -> Sequence[float]:
        try:
            answer = client.post(url, content=body, headers={"Content-Type": "application/json"})
        except httpx.TransportError as error:
            raise WrongAnswer(f"no answer: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise WrongAnswer(f"{answer.status_code} {answer.text[:200]}")
        return self.read(answer.json())


def digits() -> Scenario:
    """MNIST's test pictures as tensors of the Open Inference Protocol, for the convolutional network."""
    pictures = [picture[None] for picture in inputs.pictures()[:BODIES]]
    return Scenario(
        name="digits",
        graph=_served(MODELS / "digits" / "2"),
        route="/v2/models/digits/versions/2/infer",
        bodies=[_tensor("pictures", picture) for picture in pictures],
        inputs=list(pictures),
        # BentoML batches lists, so that its answer is the bare list of outputs.
        read=lambda answer: np.ravel((answer["outputs"] if isinstance(answer, dict) else answer)[0]["data"]).tolist(),
        first=0,
        connections=(1, 8, 64),
        least_seconds=1,
    )


def _served(directory: Path) -> Path:
    """The graph that deepserve runs on CPU."""
    return directory / GRAPHS[Card.read(directory).precisions[-1]]


def _tensor(name: str, array: npt.NDArray[np.uint8]) -> bytes:
    tensor = {"name": name, "shape": array.shape, "datatype": "UINT8", "data": array.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def sentiment() -> Scenario:
    """IMDB's test reviews as they are, long and short ones mixed, for the recurrent network."""
    directory = MODELS / "sentiment" / "2"
    texts = inputs.reviews(BODIES)
    reader = ReviewReader.of(directory)
    return Scenario(
        name="sentiment",
        graph=_served(directory),
        route="/v1/sentiment",
        bodies=[json.dumps({"reviews": [text]}).encode() for text in texts],
        inputs=[pad([reader.read(text).ids]) for text in texts],
        read=lambda answer: [answer["predictions"][0]["probability_positive"]],
        first=1,
        connections=(64,),
        least_seconds=3,
    )
