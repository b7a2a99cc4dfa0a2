"""Reviews as the sentiment network reads them: the tokenizer that is made of them, their token ids, their batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from service.tasks.sentiment import MAX_TOKENS, UNKNOWN, ReviewReader, pad
from training.datasets import Reviews

TOKEN = r"\d+(?:\.\d+)?/\d+|\w+(?:'\w+)*|\.\.+|[!?]+|[^\w\s]"
"""Marks out of ten, words with their apostrophes, runs of dots and of exclamation marks, any other mark by itself."""

Rows = npt.NDArray[np.int64]


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Lower-case words and marks; the `vocabulary` most common of those that occur at least twice are known."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"<br\s*/?>"), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex("[\u2018\u2019`\u00b4]"), "'"),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)
    special = ["[PAD]", "[UNK]"]  # ids 0 and 1: PADDING and UNKNOWN
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Corpus:
    """Reviews as token ids, each at least one, and their labels, int64 `[n]`."""

    ids: list[list[int]]
    labels: Rows

    def __add__(self, other: "Corpus") -> "Corpus":
        return Corpus(self.ids + other.ids, np.concatenate([self.labels, other.labels]))

    @classmethod
    def of(cls, reviews: Reviews, reader: ReviewReader) -> "Corpus":
        return cls([reader.read(text).ids or [UNKNOWN] for text in reviews.texts], reviews.labels)


def bucketed(lengths: Sequence[int], size: int) -> Iterator[Rows]:
    """Rows in random batches of about equal length, so that little is padded: each of 50 batches' worth is sorted."""
    shuffled = torch.randperm(len(lengths)).numpy()
    batches = []
    for start in range(0, len(shuffled), 50 * size):
        some = sorted(shuffled[start : start + 50 * size], key=lambda row: lengths[row])
        batches += [np.array(some[first : first + size]) for first in range(0, len(some), size)]
    return (batches[index] for index in torch.randperm(len(batches)))


def padded(ids: Sequence[list[int]], rows: Iterable[int], longest: int = MAX_TOKENS) -> Tensor:
    """The last `longest` tokens of those rows, int64 `[rows, length]`."""
    return torch.from_numpy(pad([ids[row][-longest:] for row in rows]))


def by_length(ids: Sequence[list[int]], size: int = 64) -> Iterator[Rows]:
    """Rows in batches of about equal length, the shortest first."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))
