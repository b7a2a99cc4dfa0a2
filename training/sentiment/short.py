"""Short texts to train and calibrate on: sentences cut from reviews, and sentences whose statement is negated.

A review's label is a noisy label of each of its sentences; a network that learns from both is calibrated on both. Few
reviewers write "not delightful": so sentences that call something good or bad are repeated with a negation in them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from service.tasks.sentiment import ReviewReader

Floats = npt.NDArray[np.float32]
Ids = Sequence[int]

VERBS = {"is": "isn't", "was": "wasn't", "are": "aren't", "were": "weren't"}
ADVERBS = frozenset(["very", "really", "so", "quite", "pretty", "too", "that", "all", "particularly", "especially"])
OPINIONS = {"liked": "like", "loved": "love", "enjoyed": "enjoy", "hated": "hate", "disliked": "dislike"}
LONGEST = 16
"""Tokens of a sentence that is negated."""
COMMON = 15
"""Times that a word must be said of something to count as an opinion."""
STRONG = 0.03
"""Least weight of an opinion in the linear part."""
CONFIDENT = {("good", False): 0.88, ("bad", False): 0.1, ("good", True): 0.1, ("bad", True): 0.65}
"""Probability of positive, by what is said and whether it is negated: "not bad" is faint praise."""


def sentences(ids: Sequence[int], ends: frozenset[int]) -> list[tuple[int, int]]:
    """Return the first place and the place after the last of each sentence of three tokens or more."""
    cuts = [0, *(place + 1 for place, number in enumerate(ids) if number in ends), len(ids)]
    return [(start, end) for start, end in pairwise(cuts) if end - start >= 3]


def cut(ids: list[int], ends: frozenset[int], generator: np.random.Generator, longest: int = 2) -> list[int]:
    """Return one to `longest` successive sentences of a review, at random."""
    spans = sentences(ids, ends)
    if not spans:
        return ids[:20]
    first = int(generator.integers(len(spans)))
    last = min(len(spans), first + int(generator.integers(1, longest + 1))) - 1
    return ids[spans[first][0] : spans[last][1]]


@dataclass(frozen=True)
class Statements:
    """Sentences that call something good or bad, plain and negated, as token ids, by kind as in `CONFIDENT`."""

    kinds: dict[tuple[str, bool], list[list[int]]]

    def draw(self, count: int, generator: np.random.Generator) -> tuple[list[list[int]], Floats]:
        """Return `count` sentences of random kinds and their probabilities of positive, float32 `[count]`."""
        kinds = [kind for kind, found in self.kinds.items() if found]
        drawn = [kinds[place] for place in generator.integers(len(kinds), size=count)]
        ids = [self.kinds[kind][int(generator.integers(len(self.kinds[kind])))] for kind in drawn]
        return ids, np.array([CONFIDENT[kind] for kind in drawn], np.float32)


def ends_of_sentences(reader: ReviewReader) -> frozenset[int]:
    """Return the ids of full stops, exclamation and question marks."""
    return frozenset(number for mark, number in reader.vocabulary.items() if re.fullmatch(r"[.!?]+", mark))


def find_statements(reviews: Sequence[Ids], weights: Floats, reader: ReviewReader) -> Statements:
    """Collect statements from reviews.

    Args:
        reviews: ids of words without negation.
        weights: of the words in the linear part, by id.
        reader: of these reviews.
    """
    names = {number: word for word, number in reader.vocabulary.items()}
    split = [[names[number] for number in ids] for ids in reviews]
    opinions = _opinions(split, weights, reader)
    kinds: dict[tuple[str, bool], list[list[int]]] = {kind: [] for kind in CONFIDENT}
    for words in split:
        for sentence in _sentences(words):
            for place, negations in _negatable(sentence, opinions):
                said = opinions[sentence[place]]
                kinds[said, False].append(reader.identify(sentence))
                kinds[said, True] += map(reader.identify, negations)
    return Statements(kinds)


def _opinions(reviews: Sequence[list[str]], weights: Floats, reader: ReviewReader) -> dict[str, str]:
    """Return good and bad words: those that are often said of something, and that the linear part weighs."""
    said: Counter[str] = Counter()
    for words in reviews:
        for sentence in _sentences(words):
            for place, verb in enumerate(sentence[:-2]):
                if verb in VERBS:
                    word = place + 1 + (sentence[place + 1] in ADVERBS)
                    if word + 1 < len(sentence) and not sentence[word + 1][0].isalnum():
                        said[sentence[word]] += 1
    found = {
        word: weights[reader.vocabulary[word]] for word, count in said.items() if count >= COMMON and word.isalpha()
    }
    opinions = {word: "good" if weight > 0 else "bad" for word, weight in found.items() if abs(weight) >= STRONG}
    return opinions | {word: "good" if word in ("liked", "loved", "enjoyed") else "bad" for word in OPINIONS}


def _sentences(words: list[str]) -> Iterator[list[str]]:
    start = 0
    for place, word in enumerate(words):
        if word[0] in ".!?":
            if 3 <= place + 1 - start <= LONGEST:
                yield words[start : place + 1]
            start = place + 1


def _negatable(sentence: list[str], opinions: dict[str, str]) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield the place of an opinion and the sentence negated, if it holds one statement and no negation."""
    if any(word in ("not", "never", "no", "but", "nothing") or word.endswith("n't") for word in sentence):
        return
    places = [place for place, word in enumerate(sentence) if word in opinions]
    if len(places) != 1:
        return
    (place,) = places
    if sentence[place] in OPINIONS:
        if place and sentence[place - 1] in ("i", "we", "they", "really", "everyone"):
            before, after = sentence[:place], [OPINIONS[sentence[place]], *sentence[place + 1 :]]
            yield place, [[*before, "did", "not", *after], [*before, "didn't", *after]]
        return
    for verb in range(max(0, place - 3), place):
        between = sentence[verb + 1 : place]
        if sentence[verb] in VERBS and all(word in ADVERBS or word in ("a", "an", "the") for word in between):
            before, after = sentence[:verb], sentence[verb + 1 :]
            yield (
                place,
                [
                    [*before, sentence[verb], "not", *after],
                    [*before, VERBS[sentence[verb]], *after],
                    [*before, sentence[verb], "never", *after]
                    if "the" not in between
                    else [*before, sentence[verb], "not", *after],
                ],
            )
            return
