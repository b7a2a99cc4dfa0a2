"""What a client may send as a review, which tokens the graph gets to see of it, and what comes back."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, normalizers

from service.tasks.base import MAX_ITEMS
from service.tasks.sentiment import (
    MAX_CHARACTERS,
    MAX_TOKENS,
    PADDING,
    TOKENIZER_FILE,
    UNKNOWN,
    AsciiReader,
    Reading,
    ReviewReader,
    SentimentRequest,
    SentimentTask,
    pad,
)
from training.data.imdb import load_reviews

MODEL = Path("models/sentiment/1")
TASK = SentimentTask(MODEL)
READER = ReviewReader.of(MODEL)
TOKENIZER = Tokenizer.from_file(str(MODEL / TOKENIZER_FILE))

TEXTS = st.text(min_size=1, max_size=300)
READINGS = st.lists(st.lists(st.integers(1, 29_999), max_size=40), min_size=1, max_size=20)


def words(text: str) -> list[str]:
    """What the reader makes of the text, unknown words as `[UNK]`."""
    return [TOKENIZER.id_to_token(token) or "" for token in READER.read(text).ids]


def faults(body: str) -> list[tuple[str | int, ...]]:
    with pytest.raises(ValidationError) as caught:
        SentimentRequest.model_validate_json(body)
    return [fault["loc"] for fault in caught.value.errors()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A great film.", ["a", "great", "film", "."]),
        ("GREAT great Great", ["great"] * 3),
        ("good.<br /><br />But long", ["good", ".", "but", "long"]),
        ("good<br>but<br/>long", ["good", "but", "long"]),
        ("I didn't, it wasn\u2019t", ["i", "didn't", ",", "it", "wasn't"]),
        ("7/10 and 8.5/10", ["7/10", "and", "8.5/10"]),
        ("well..... really?!", ["well", ".....", "really", "?!"]),
        ("\uff27\uff32\uff25\uff21\uff34 \ufb01lm", ["great", "film"]),
        ("clich\u00e9 cliche\u0301", ["clich\u00e9"] * 2),
        ("xqzzvkj film", ["[UNK]", "film"]),
        ("\U0001f600 film", ["[UNK]", "film"]),
        ("[PAD] [UNK]", ["[", "pad", "]", "[", "[UNK]", "]"]),
        (" \t\n film \u00a0\u2003 ", ["film"]),
    ],
)
def test_texts_become_words_and_marks(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("text", [" ", "\n\t", "<br /><br />", "\u00a0"])
def test_a_text_without_words_is_read_as_one_unknown(text: str) -> None:
    inputs, readings = TASK.preprocess(SentimentRequest(reviews=[text, "good film"]))
    assert readings[0] == Reading([], truncated=False)
    assert inputs["tokens"][0].tolist() == [UNKNOWN, PADDING]


@pytest.mark.parametrize(("length", "truncated"), [(1, False), (MAX_TOKENS, False), (MAX_TOKENS + 1, True)])
def test_of_a_long_review_the_end_is_read(length: int, truncated: bool) -> None:
    reading = READER.read("first " + "bad " * (length - 2) + "good" if length > 1 else "good")
    assert len(reading.ids) == min(length, MAX_TOKENS)
    assert reading.truncated == truncated
    assert reading.ids[-1] == TOKENIZER.token_to_id("good")
    assert (TOKENIZER.token_to_id("first") in reading.ids) == (1 < length <= MAX_TOKENS)


def test_the_longest_review_is_read() -> None:
    (reading,) = TASK.preprocess(SentimentRequest(reviews=["!a" * (MAX_CHARACTERS // 2)]))[1]
    assert len(reading.ids) == MAX_TOKENS
    assert reading.truncated


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_every_text_becomes_a_row_of_known_ids(texts: list[str]) -> None:
    inputs, readings = TASK.preprocess(SentimentRequest(reviews=texts))
    tokens = inputs["tokens"]
    assert tokens.dtype == np.int64
    assert tokens.shape == (len(texts), max(1, *(len(reading.ids) for reading in readings), 1))
    assert ((tokens >= PADDING) & (tokens < TOKENIZER.get_vocab_size())).all()
    for text, row, reading in zip(texts, tokens, readings, strict=True):
        assert reading == READER.read(text)
        assert PADDING not in reading.ids
        assert np.count_nonzero(row) == max(1, len(reading.ids))


def tokenizer() -> Tokenizer:
    """The model's, as the reader has it: nothing in a text is special."""
    plain = Tokenizer.from_file(str(MODEL / TOKENIZER_FILE))
    plain.encode_special_tokens = True
    return plain


PLAIN = tokenizer()
ASCII_READER = AsciiReader(PLAIN)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.one_of(st.characters(codec="ascii"), st.sampled_from(["<br />", "[PAD]", "8.5/10", "don't", "..."])))
)
def test_ascii_is_read_as_the_tokenizer_reads_it(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert ASCII_READER.read(text) == PLAIN.encode(text).ids


def test_real_reviews_are_read_as_the_tokenizer_reads_them() -> None:
    for text in load_reviews()[1].texts[::25]:
        assert READER.read(text).ids == PLAIN.encode(text).ids[-MAX_TOKENS:]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    other = tokenizer()
    other.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    with pytest.raises(ValueError, match="NFD"):
        ReviewReader(other)


@settings(deadline=None)
@given(TEXTS)
def test_space_around_a_text_and_line_breaks_for_spaces_do_not_matter(text: str) -> None:
    assert READER.read(f"  {text}<br />").ids == READER.read(text).ids


@given(READINGS)
def test_rows_are_padded_on_the_right(rows: list[list[int]]) -> None:
    padded = pad(rows)
    assert padded.shape[1] == max(1, *(len(row) for row in rows), 1)
    for row, ids in zip(padded.tolist(), rows, strict=True):
        ids = ids or [UNKNOWN]
        assert row == ids + [PADDING] * (padded.shape[1] - len(ids))


def test_no_rows_make_an_empty_array() -> None:
    assert pad([]).shape == (0, 1)


@pytest.mark.parametrize("count", [1, MAX_ITEMS])
def test_one_to_64_reviews_are_taken(count: int) -> None:
    assert len(TASK.preprocess(SentimentRequest(reviews=["good"] * count))[1]) == count


@pytest.mark.parametrize("count", [0, MAX_ITEMS + 1])
def test_no_reviews_and_65_are_refused(count: int) -> None:
    assert faults(json.dumps({"reviews": ["good"] * count})) == [("reviews",)]


@pytest.mark.parametrize("review", ["", "a" * (MAX_CHARACTERS + 1), None, 7, ["good"], {"text": "good"}])
def test_what_is_no_review_is_refused_where_it_is(review: object) -> None:
    assert faults(json.dumps({"reviews": ["good", review]})) == [("reviews", 1)]


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValidationError):
        SentimentRequest.model_validate_json(r'{"reviews": ["\ud83d"]}')


@pytest.mark.parametrize("field", ["review", "Reviews", "language"])
def test_unknown_fields_are_refused_by_name(field: str) -> None:
    assert faults(json.dumps({"reviews": ["good"], field: "x"})) == [(field,)]


@pytest.mark.parametrize(
    ("positive", "label", "confidence"),
    [(0.0, "negative", 1.0), (0.25, "negative", 0.75), (0.75, "positive", 0.75), (1.0, "positive", 1.0)],
)
def test_the_likelier_label_is_named(positive: float, label: str, confidence: float) -> None:
    outputs = {"probabilities": np.array([[1 - positive, positive]], np.float32)}
    answer = TASK.postprocess(outputs, [Reading([2, 3, 4], truncated=True)])
    assert (answer.model, answer.version) == ("sentiment", "1")
    assert [prediction.model_dump() for prediction in answer.predictions] == [
        {
            "label": label,
            "confidence": confidence,
            "probability_positive": positive,
            "tokens": 3,
            "truncated": True,
        }
    ]


def test_length_and_unknown_words_are_read_off_the_tensors() -> None:
    tokens = np.array([[5, UNKNOWN, PADDING], [7, 8, 9], [UNKNOWN, PADDING, PADDING], [PADDING] * 3], np.int64)
    found = TASK.features({"tokens": tokens})
    assert found["tokens"].tolist() == [2, 3, 1, 0]
    assert found["unknown_tokens"].tolist() == [0.5, 0, 1, 0]
