"""Sentiment: does the reviewer like the film? The request and the answer, and how a text becomes token ids.

Training reads texts with the same `ReviewReader`, so that both see the same ids.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from service.tasks.base import MAX_ITEMS, Request, Response, Task
from service.tensors import Array, Tensors

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else its batches take a thread per core

TOKENIZER_FILE = "tokenizer.json"
PADDING = 0
UNKNOWN = 1
MAX_CHARACTERS = 20_000
MAX_TOKENS = 1024
"""Of a longer review the last ones are read: that is where the verdict stands. 1 in 100 IMDB reviews is longer."""

QUICK_CHARACTERS = 4000
"""Texts that take about a millisecond to read together have no more."""

TokenIds = npt.NDArray[np.int64]

Review = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class SentimentRequest(Request):
    """Film reviews, in English."""

    reviews: Annotated[list[Review], Field(min_length=1, max_length=MAX_ITEMS)]


class Sentiment(BaseModel):
    """What the reviewer thinks of the film."""

    label: Literal["positive", "negative"]
    confidence: float
    """Probability of the label, 0.5 to 1."""
    probability_positive: float
    tokens: int
    """Words and punctuation marks that were read."""
    truncated: bool
    """Whether the review was too long and only its end was read."""


class SentimentResponse(Response):
    """One `Sentiment` per review, in order."""

    predictions: list[Sentiment]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one review: token ids, all positive, perhaps none; and whether its beginning was left out."""

    ids: list[int]
    truncated: bool


class AsciiReader:
    """Gives the ids that a tokenizer gives for texts in ASCII, which is most of them, at a third of its cost."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Does what the tokenizer's definition says; in ASCII, NFKC changes nothing.

        Raises:
            ValueError: the definition has steps that are not known here.
        """
        definition = json.loads(tokenizer.to_str())
        steps = definition["normalizer"]["normalizers"]
        kinds = [step["type"] for step in steps]
        if set(kinds) != {"Replace", "NFKC", "Lowercase"} or kinds[-1] != "Lowercase":
            raise ValueError(f"a tokenizer with the steps {kinds} cannot be read here")
        self._replacements = [
            (re.compile(step["pattern"]["Regex"], re.ASCII), step["content"])
            for step in steps
            if step["type"] == "Replace"
        ]
        self._token = re.compile(definition["pre_tokenizer"]["pattern"]["Regex"], re.ASCII)
        self._vocabulary: dict[str, int] = definition["model"]["vocab"]

    def read(self, text: str) -> list[int]:
        """The ids of all tokens."""
        for pattern, content in self._replacements:
            text = pattern.sub(content, text)
        identify = self._vocabulary.get
        return [identify(token, UNKNOWN) for token in self._token.findall(text.lower())]


class ReviewReader:
    """Turns texts into token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ascii = AsciiReader(tokenizer)
        # Else "[PAD]" in a text would become padding in the middle of a row.
        tokenizer.encode_special_tokens = True

    @classmethod
    def of(cls, directory: Path) -> "ReviewReader":
        """The reader of the model in `directory`."""
        return cls(Tokenizer.from_file(str(directory / TOKENIZER_FILE)))

    def save(self, directory: Path) -> None:
        """Writes what `of` reads."""
        self._tokenizer.save(str(directory / TOKENIZER_FILE))

    def read(self, text: str) -> Reading:
        """The last `MAX_TOKENS` tokens of the text."""
        # `encode_batch_fast` leaves out the offsets that nobody asks for: a quarter faster than `encode`.
        ids = self._ascii.read(text) if text.isascii() else self._tokenizer.encode_batch_fast([text])[0].ids
        return Reading(ids[-MAX_TOKENS:], len(ids) > MAX_TOKENS)


def pad(rows: Sequence[Sequence[int]]) -> TokenIds:
    """Token ids, int64 `[n, length of the longest]`, padded on the right with 0; a row without any is one unknown."""
    padded = np.full((len(rows), max([1, *map(len, rows)])), PADDING, np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: max(1, len(ids))] = ids or UNKNOWN
    return padded


class SentimentTask(Task[SentimentRequest, list[Reading], SentimentResponse]):
    """Reviews to labels; a text without a single word or mark is read as one unknown word."""

    name = "sentiment"
    Request = SentimentRequest
    Response = SentimentResponse
    sequence = "tokens"
    longest = MAX_TOKENS
    inputs = ("tokens",)
    outputs = ("probabilities",)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._reader = ReviewReader.of(directory)

    def is_slow_to_preprocess(self, request: SentimentRequest) -> bool:
        return sum(map(len, request.reviews)) > QUICK_CHARACTERS

    def preprocess(self, request: SentimentRequest) -> tuple[Tensors, list[Reading]]:
        """`tokens`, int64 `[n, length]`, and what was read of each review."""
        readings = [self._reader.read(text) for text in request.reviews]
        return {"tokens": pad([reading.ids for reading in readings])}, readings

    def postprocess(self, outputs: Tensors, state: list[Reading]) -> SentimentResponse:
        """From `probabilities`, float32 `[n, 2]`: negative, positive."""
        return SentimentResponse(
            model=self.name,
            version=self.version,
            predictions=[
                Sentiment(
                    label="positive" if positive > negative else "negative",
                    confidence=max(negative, positive),
                    probability_positive=positive,
                    tokens=len(reading.ids),
                    truncated=reading.truncated,
                )
                for (negative, positive), reading in zip(outputs["probabilities"].tolist(), state, strict=True)
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """`tokens`, how many were read; `unknown_tokens`, the share of them that is not in the vocabulary."""
        tokens = (inputs["tokens"] != PADDING).sum(1)
        return {"tokens": tokens, "unknown_tokens": (inputs["tokens"] == UNKNOWN).sum(1) / np.maximum(tokens, 1)}
