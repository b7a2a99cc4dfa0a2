"""Read digits in encoded pictures as the service does: decode, crop, run the graph, choose among the crops."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from service.errors import Invalid
from service.tasks.digits import Candidates, DigitsRequest, DigitsTask
from service.tensors import Array, Tensors
from training.data.images import Labels
from training.version import open_session

RUN_ROWS = 1000
"""Rows of a run, for the sake of memory."""

TASK = DigitsTask(Path("models/digits/2"))
"""All versions preprocess alike."""


@dataclass(frozen=True)
class Preprocessed:
    """What the service makes of one picture before it runs the graph."""

    inputs: Tensors
    candidates: Candidates | None


def preprocess(pictures: Iterable[bytes], description: str) -> list[Preprocessed | None]:
    """Return what each picture becomes, None where the service finds no digit; a progress bar has the description."""
    return [_preprocess(picture) for picture in tqdm(pictures, description, leave=False, disable=None)]


def _preprocess(picture: bytes) -> Preprocessed | None:
    try:
        return Preprocessed(*TASK.preprocess(DigitsRequest.model_construct(images=[picture])))
    except Invalid:
        return None


def read(graph: Path, pictures: list[Preprocessed | None]) -> Labels:
    """Return the digit that a graph reads in each picture, int64 `[n]`, -1 where the service finds none."""
    found = [picture for picture in pictures if picture is not None]
    rows = [len(picture.inputs["pictures"]) for picture in found]
    labels = np.full(len(pictures), -1, np.int64)
    if found:
        outputs = _run(graph, np.concatenate([picture.inputs["pictures"] for picture in found]))
        parts = np.split(outputs, np.cumsum(rows)[:-1])
        labels[[picture is not None for picture in pictures]] = [*map(_chosen, found, parts)]
    return labels


def _run(graph: Path, pictures: Array) -> Array:
    session = open_session(graph)
    runs = (pictures[at : at + RUN_ROWS] for at in range(0, len(pictures), RUN_ROWS))
    return np.concatenate([session.run(None, {"pictures": run})[0] for run in runs])


def _chosen(picture: Preprocessed, probabilities: Array) -> int:
    rows = TASK.select({"probabilities": probabilities}, picture.candidates)
    return int(probabilities[0 if rows is None else rows[0]].argmax())
