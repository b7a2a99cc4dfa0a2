"""Makes the questions of load tests: `python -m load_tests.prepare`.

Real inputs become requests as clients send them, most with one item, some with several. The right answers are those of
the newest version's own graphs, run here, request by request, by ONNX Runtime alone.
"""

import argparse
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from load_tests import inputs
from load_tests.questions import FILE, TASKS, Question, write
from service.engine.onnx.runtime import ort
from service.inference.binding import bind
from service.registry.card import GRAPHS, Card
from service.registry.layout import scan_model
from service.settings import settings
from service.tasks.base import AnyTask
from service.tasks.fashion import CLASSES, png
from service.tasks.mammogram import LEVELS
from service.tensors import Tensors, take_rows
from training.data.download import DataError

COUNT = 256
"""Questions of a task."""
REVIEWS = 512
"""Different ones in all questions."""
SIZES = (1, 1, 1, 1, 1, 1, 1, 8)
"""Items of a request, in turn."""

JSON = "application/json"


@dataclass(frozen=True)
class Request:
    """What goes over the wire, and the same as JSON, as the service's predictors read it."""

    document: dict[str, Any]
    accept: str = JSON
    media_type: str = JSON
    content: bytes | None = None
    """The body where it is not the document."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes them."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.prepare", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--count", type=int, default=COUNT, help="questions of a task")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    try:
        write((question for name in options.tasks for question in questions(name, options.count)), options.out)
    except DataError as error:
        raise SystemExit(str(error)) from error


def questions(name: str, count: int) -> list[Question]:
    """As many of the task, the same each time."""
    model = settings().models_dir / name
    directory = model / scan_model(model).versions[-1]
    card = Card.read(directory)
    task = bind(directory, card)
    sessions = [_session(directory / GRAPHS[precision]) for precision in card.precisions]
    return [
        Question(
            name=f"{name}-{number}",
            task=name,
            path=f"/v1/{name}",
            headers={"Content-Type": request.media_type, "Accept": request.accept},
            body=json.dumps(request.document).encode() if request.content is None else request.content,
            expected=tuple(_answer(task, session, request) for session in sessions),
        )
        for number, request in enumerate(islice(_REQUESTS[name](), count))
    ]


def _session(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options)


def _answer(task: AnyTask, session: ort.InferenceSession, request: Request) -> dict[str, Any]:
    """What a client must get, as a document."""
    tensors, state = task.preprocess(task.Request.model_validate_json(json.dumps(request.document)))
    names = list(task.outputs)
    outputs: Tensors = dict(zip(names, session.run(names, dict(tensors)), strict=True))
    response = task.postprocess(take_rows(outputs, task.select(outputs, state)), state)
    if request.accept != JSON:
        return {"image": base64.b64encode(task.render(response, request.accept).content).decode()}
    document: dict[str, Any] = response.model_dump(mode="json")
    return document


def _digits() -> Iterator[Request]:
    """Pictures as PNG: one is the body itself, several are JSON."""
    pngs = (png(picture) for picture in inputs.pictures())
    for size in cycle(SIZES):
        images = list(islice(pngs, size))
        document = {"images": [base64.b64encode(image).decode() for image in images]}
        yield Request(document, media_type="image/png", content=images[0]) if size == 1 else Request(document)


def _sentiment() -> Iterator[Request]:
    texts = cycle(inputs.reviews(REVIEWS))
    return (Request({"reviews": list(islice(texts, size))}) for size in cycle(SIZES))


def _mammogram() -> Iterator[Request]:
    known = cycle(row.tolist() for row in inputs.masses() if not np.isnan(row).all())
    return (Request({"masses": [_mass(row) for row in islice(known, size)]}) for size in cycle(SIZES))


def _mass(row: Sequence[float]) -> dict[str, Any]:
    """One as radiologists name it; what is not known is left out."""
    age, *codes = row
    levels = {
        measurement: names[int(code) - 1]
        for (measurement, names), code in zip(LEVELS.items(), codes, strict=True)
        if not np.isnan(code)
    }
    return levels if np.isnan(age) else {"age": age, **levels}


def _fashion() -> Iterator[Request]:
    """Orders of single pieces and of several, in JSON and, each other one, as a grid in one PNG."""
    for seed, size in enumerate(cycle(SIZES)):
        order = {"count": size, "seed": seed, "label": CLASSES[seed % len(CLASSES)], "truncation": 1.0}
        yield Request(order, accept=("image/png", JSON)[seed % 2])


_REQUESTS: dict[str, Callable[[], Iterator[Request]]] = {
    "digits": _digits,
    "sentiment": _sentiment,
    "mammogram": _mammogram,
    "fashion": _fashion,
}


if __name__ == "__main__":
    main()
