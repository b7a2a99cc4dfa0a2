"""Sentiment: does the reviewer like the film? The request and the answer, and how a text becomes token ids.

Training reads texts with the same `ReviewReader`, so that both see the same ids.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from service.tasks.base import MAX_ITEMS, Request, Response, Task
from service.tasks.text import normalise
from service.tensors import Array, Tensors

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else its batches take a thread per core

TOKENIZER_FILE = "tokenizer.json"
PADDING = 0
UNKNOWN = 1
MAX_CHARACTERS = 20_000
MAX_TOKENS = 1024
FIRST_TOKENS = 256
"""Of a longer review this many of the first tokens are read, and the last ones. 1 in 100 IMDB reviews is longer."""

WORD = re.compile(r"[^\W\d_]|/")
"""A letter, or the stroke of a rating such as 7/10."""
REPEATED = re.compile(r"(.)\1{2,}")
COMMON = 10_000
"""Ids below this, those of the most common words, are what a misspelt word may mean."""
NEGATIONS = frozenset(
    ["not", "no", "never", "neither", "nor", "none", "nothing", "nobody", "without", "hardly", "barely", "cannot"]
)
"""Words that negate, beside those that end in n't or, without its apostrophe, in nt."""
AUXILIARIES = frozenset(
    [
        "do",
        "does",
        "did",
        "is",
        "was",
        "are",
        "were",
        "has",
        "have",
        "had",
        "ca",
        "could",
        "should",
        "wo",
        "would",
        "ai",
    ]
)
CONJUNCTIONS = frozenset(["but", "although", "though", "however", "because", "and"])
SCOPE = 5
"""Tokens after a negation that it negates, up to a mark or a conjunction (Das and Chen, 2001)."""

PRIOR = 0.5
"""Probability of positive of a text that says nothing: half of the training reviews are positive."""

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
    """Whether the review was too long and only its start and end were read."""
    unknown_share: float
    """Share of the tokens that the model does not know, 0 to 1: the higher, the less the prediction is worth."""


class SentimentResponse(Response):
    """One `Sentiment` per review, in order."""

    predictions: list[Sentiment]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one review."""

    ids: list[int]
    """Token ids, all positive, perhaps none."""
    truncated: bool
    """Whether the middle was left out."""
    has_words: bool
    """Whether a token is a word of the vocabulary, rather than a mark or unknown."""

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are not in the vocabulary; 1 for a text without tokens."""
        return self.ids.count(UNKNOWN) / len(self.ids) if self.ids else 1.0


class ReviewReader:
    """Turns texts into token ids, by the definition in `tokenizer.json`.

    A word in the scope of a negation has its own id, that of `not_<word>`, if the vocabulary has one.
    """

    def __init__(self, text: str) -> None:
        """Compile a tokenizer: replacements, then lower case, then one pattern for a token.

        Args:
            text: its definition, in the JSON of the package `tokenizers`.

        Raises:
            ValueError: the text is not a definition, or the definition has other steps.
        """
        self._text = text
        try:
            self._compile(json.loads(text))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{TOKENIZER_FILE} is not the definition of a tokenizer") from error

    def _compile(self, definition: dict[str, Any]) -> None:
        steps = definition["normalizer"]["normalizers"]
        kinds = [step["type"] for step in steps]
        if not {"Lowercase"} <= set(kinds) <= {"Replace", "NFKC", "Lowercase"} or kinds[-1] != "Lowercase":
            raise ValueError(f"a tokenizer with the steps {kinds} cannot be read here")
        patterns = [(step["pattern"]["Regex"], step["content"]) for step in steps if step["type"] == "Replace"]
        self._replacements = [(re.compile(pattern), content) for pattern, content in patterns]
        token = definition["pre_tokenizer"]["pattern"]["Regex"]
        self._token, self._ascii_token = re.compile(token), re.compile(token, re.ASCII)
        self.vocabulary = Vocabulary(definition["model"]["vocab"])

    @classmethod
    def of(cls, directory: Path) -> "ReviewReader":
        """Return the reader of the version in `directory`."""
        return cls((directory / TOKENIZER_FILE).read_text(encoding="utf-8"))

    def save(self, directory: Path) -> None:
        """Write what `of` reads."""
        (directory / TOKENIZER_FILE).write_text(self._text, encoding="utf-8")

    def read(self, text: str) -> Reading:
        """Return the tokens of the text; of more than `MAX_TOKENS`, the first and the last ones."""
        tokens = self.split(text)
        truncated = len(tokens) > MAX_TOKENS
        if truncated:
            tokens = tokens[:FIRST_TOKENS] + tokens[FIRST_TOKENS - MAX_TOKENS :]
        ids = self.identify(tokens)
        return Reading(ids, truncated, has_words=not self.vocabulary.not_words.issuperset(ids))

    def identify(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of words and marks, negation marked."""
        return self.vocabulary.mark_negated([self.vocabulary[token] for token in tokens])

    def split(self, text: str) -> list[str]:
        """Return the words and marks of the text, in lower case."""
        text = normalise(text)
        for pattern, content in self._replacements:
            text = pattern.sub(content, text)
        return (self._ascii_token if text.isascii() else self._token).findall(text.lower())


class Vocabulary(dict[str, int]):
    """Words and marks to ids; an unknown word has the id of the word that it is probably meant to be, or 1."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        super().__init__(ids)
        marks = {number for word, number in ids.items() if not WORD.search(word)}
        self.not_words = frozenset(marks | {UNKNOWN})
        self._negated = {
            ids[word[4:]]: number for word, number in ids.items() if word.startswith("not_") and word[4:] in ids
        }
        self._negations = frozenset(number for word, number in ids.items() if _negates(word))
        self._ends_of_scope = frozenset(marks | {ids[word] for word in CONJUNCTIONS if word in ids}) | self._negations

    def __missing__(self, word: str) -> int:
        """Return the id of the most common word that differs by one slip, of those that typists make most often.

        Slips: a letter repeated or doubled, two letters swapped. A possessive ending is no slip but left out.
        """
        if not word.isalpha():
            stem, apostrophe, _ = word.partition("'")
            return self.get(stem, UNKNOWN) if apostrophe else UNKNOWN
        if REPEATED.search(word):
            return self.get(REPEATED.sub(r"\1\1", word)) or self.get(REPEATED.sub(r"\1", word), UNKNOWN)
        if not 5 <= len(word) <= 20:
            return UNKNOWN
        best, identify = COMMON, self.get
        for place in range(len(word) - 1):
            one, other = word[place], word[place + 1]
            meant = word[:place] + (one if one == other else other + one) + word[place + 2 :]
            best = min(best, identify(meant, COMMON))
        return best if best < COMMON else UNKNOWN

    def mark_negated(self, ids: list[int]) -> list[int]:
        """Return the ids with words in the scope of a negation replaced by their negated ones."""
        if not self._negated:
            return ids
        negations = self._negations
        places = [place for place, number in enumerate(ids) if number in negations]
        marked = ids.copy() if places else ids
        for negation in places:
            for place in range(negation + 1, min(negation + 1 + SCOPE, len(ids))):
                if ids[place] in self._ends_of_scope:
                    break
                marked[place] = self._negated.get(ids[place], ids[place])
        return marked


def _negates(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't") or (word.endswith("nt") and word[:-2] in AUXILIARIES)


def pad(rows: Sequence[Sequence[int]]) -> TokenIds:
    """Return token ids, int64 `[n, length of the longest]`, padded on the right with 0; an empty row is one unknown."""
    padded = np.full((len(rows), max([1, *map(len, rows)])), PADDING, np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: max(1, len(ids))] = ids or UNKNOWN
    return padded


class SentimentTask(Task[SentimentRequest, list[Reading], SentimentResponse]):
    """Turns reviews into token ids, and probabilities into labels."""

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
        """Return `tokens`, int64 `[n, length]`, and the reading of each review."""
        readings = [self._reader.read(text) for text in request.reviews]
        return {"tokens": pad([reading.ids for reading in readings])}, readings

    def postprocess(self, outputs: Tensors, state: list[Reading]) -> SentimentResponse:
        """Return the response from `probabilities`, float32 `[n, 2]`: negative, positive.

        A text without a known word has the prior probability, which is no verdict.
        """
        positive = [
            probability if reading.has_words else PRIOR
            for probability, reading in zip(outputs["probabilities"][:, 1].tolist(), state, strict=True)
        ]
        return SentimentResponse(
            model=self.name,
            version=self.version,
            predictions=[
                Sentiment(
                    label="positive" if probability > PRIOR else "negative",
                    confidence=max(probability, 1 - probability),
                    probability_positive=probability,
                    tokens=len(reading.ids),
                    truncated=reading.truncated,
                    unknown_share=reading.unknown_share,
                )
                for probability, reading in zip(positive, state, strict=True)
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """Return `tokens`, their number, and `unknown_tokens`, the share that is not in the vocabulary."""
        tokens = (inputs["tokens"] != PADDING).sum(1)
        return {"tokens": tokens, "unknown_tokens": (inputs["tokens"] == UNKNOWN).sum(1) / np.maximum(tokens, 1)}
