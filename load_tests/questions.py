"""Requests with the answers that they must get: an answer that is wrong, lost or somebody else's is noticed.

`load_tests.prepare` makes them and writes them to a file; who asks reads the file, and needs neither data sets nor
models for it.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from load_tests.machine import OUT

FILE = OUT / "questions.jsonl"
TASKS = ("digits", "sentiment", "mammogram", "fashion")
TOLERANCE = 1e-3
"""Between figures."""
LEVELS = 2
"""Between the grey levels of pictures, of 255."""


@dataclass(frozen=True)
class Question:
    """One request and what its answer must hold."""

    name: str
    """Its own, sent along as its request id."""
    task: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    expected: tuple[Any, ...]
    """Documents, each the right answer of one precision that the version has. What stands under `image` is a PNG in
    base64, of which the pixels count."""

    def fault(self, status: int, request_id: str | None, body: bytes) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        if status != HTTPStatus.OK:
            return f"status {status}: {body[:200].decode(errors='replace')}"
        if request_id != self.name:
            return f"the answer to {request_id} came to {self.name}"
        try:
            answer = self._read(body)
        except ValueError:
            return f"no {self.headers['Accept']}: {body[:80]!r}"
        faults = [_difference(right, answer) for right in self._pixels]
        return None if None in faults else f"{self.name}: {faults[-1]}"

    def request(self, host: str) -> bytes:
        """All of it as it goes over the wire."""
        headers = {"Host": host, "Content-Length": str(len(self.body)), "X-Request-ID": self.name, **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body

    @cached_property
    def _pixels(self) -> tuple[Any, ...]:
        return tuple(_with_pixels(document) for document in self.expected)

    def _read(self, body: bytes) -> Any:
        return json.loads(body) if self.headers["Accept"] == "application/json" else {"image": _pixels(body)}


def write(questions: Iterable[Question], path: Path) -> None:
    """Into a file, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({**asdict(one), "body": base64.b64encode(one.body).decode()}) for one in questions)
    path.write_text("".join(f"{line}\n" for line in lines))


def read(path: Path = FILE) -> dict[str, list[Question]]:
    """Those in the file, by task.

    Raises:
        SystemExit: there is no such file.
    """
    if not path.exists():
        raise SystemExit(f"{path} is not there: python -m load_tests.prepare makes it")
    found: dict[str, list[Question]] = {}
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        fields |= {"body": base64.b64decode(fields["body"]), "expected": tuple(fields["expected"])}
        found.setdefault(fields["task"], []).append(Question(**fields))
    return found


def _with_pixels(document: Any) -> Any:
    match document:
        case dict():
            return {
                key: _pixels(base64.b64decode(value)) if key == "image" else _with_pixels(value)
                for key, value in document.items()
            }
        case list():
            return [_with_pixels(item) for item in document]
    return document


def _pixels(png: bytes) -> npt.NDArray[np.int16]:
    """Grey levels of a PNG.

    Raises:
        ValueError: it is none.
    """
    if not png.startswith(b"\x89PNG") or (picture := cv2.imdecode(np.frombuffer(png, np.uint8), 0)) is None:
        raise ValueError("not a PNG")
    return picture.astype(np.int16)


def _difference(right: Any, answer: Any, place: str = "") -> str | None:
    """Where an answer is not as it should be, and how; more fields than are known do not count."""
    match right:
        case dict() if isinstance(answer, dict) and right.keys() <= answer.keys():
            return next(
                (found for key in right if (found := _difference(right[key], answer[key], f"{place}.{key}"))), None
            )
        case list() if isinstance(answer, list) and len(right) == len(answer):
            pairs = enumerate(zip(right, answer, strict=True))
            return next((found for row, (a, b) in pairs if (found := _difference(a, b, f"{place}[{row}]"))), None)
        case np.ndarray():
            picture = _pixels(base64.b64decode(answer)) if isinstance(answer, str) else answer
            same = picture.shape == right.shape and np.abs(picture - right).max() <= LEVELS
            return None if same else f"{place} is another picture"
        case float() if isinstance(answer, int | float) and abs(answer - right) <= TOLERANCE:
            return None
    return None if right == answer else f"{place} is {answer!r}, not {right!r}"
