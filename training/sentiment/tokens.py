"""Tokenizer, token ids and batches of reviews."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from service.tasks.sentiment import MAX_TOKENS, UNKNOWN, WORD, ReviewReader, pad
from service.tasks.text import normalise
from training.data.imdb import Reviews

TOKEN = r"\d+(?:\.\d+)?/\d+|\w+(?:'\w+)*|\.\.+|[!?]+|[^\w\s]"
"""Ratings such as 7/10, words with apostrophes, runs of dots, of exclamation and question marks, single marks."""

Rows = npt.NDArray[np.int64]


def make_tokenizer(texts: Sequence[str], vocabulary: int, negated: int) -> Tokenizer:
    """Return a tokenizer of the `vocabulary` most common lower-case words and marks that occur twice or more.

    The words among the first `negated` of them have a second id, that of `not_<word>`, after all others.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex("[\u2018\u2019`\u00b4]"), "'"), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)
    special = ["[PAD]", "[UNK]"]  # ids 0 and 1: PADDING and UNKNOWN
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(map(normalise, texts), trainer)
    ids = tokenizer.get_vocab()
    words = [word for word in sorted(ids, key=ids.__getitem__)[:negated] if WORD.search(word) and word not in special]
    ids |= {f"not_{word}": len(ids) + place for place, word in enumerate(words)}
    tokenizer.model = models.WordLevel(ids, unk_token="[UNK]")
    return tokenizer


def plain_ids(tokenizer: Tokenizer) -> Rows:
    """Return for each id the id of the word without negation, int64 `[ids]`."""
    ids = tokenizer.get_vocab()
    plain = np.arange(len(ids))
    for word, number in ids.items():
        if word.startswith("not_") and word[4:] in ids:
            plain[number] = ids[word[4:]]
    return plain


@dataclass(frozen=True)
class Corpus:
    """Reviews as token ids, at least one each, and their labels, int64 `[n]`."""

    ids: list[list[int]]
    labels: Rows

    def __add__(self, other: "Corpus") -> "Corpus":
        return Corpus(self.ids + other.ids, np.concatenate([self.labels, other.labels]))

    @classmethod
    def of(cls, reviews: Reviews, reader: ReviewReader) -> "Corpus":
        return cls([reader.read(text).ids or [UNKNOWN] for text in reviews.texts], reviews.labels)


def bucketed(lengths: Sequence[int], size: int) -> Iterator[Rows]:
    """Return random batches of rows of similar length: each stretch of 50 shuffled batches is sorted by length."""
    shuffled = torch.randperm(len(lengths)).numpy()
    batches = []
    for start in range(0, len(shuffled), 50 * size):
        some = sorted(shuffled[start : start + 50 * size], key=lambda row: lengths[row])
        batches += [np.array(some[first : first + size]) for first in range(0, len(some), size)]
    return (batches[index] for index in torch.randperm(len(batches)))


def padded(ids: Sequence[list[int]], rows: Iterable[int], longest: int = MAX_TOKENS) -> Tensor:
    """Return the last `longest` tokens of the rows, int64 `[rows, length]`, padded with 0."""
    return torch.from_numpy(pad([ids[row][-longest:] for row in rows]))


def by_length(ids: Sequence[list[int]], size: int = 64) -> Iterator[Rows]:
    """Return batches of rows of similar length, the shortest first."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))
