"""What a client may send as a review, which tokens the graph gets to see of it, and what comes back."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, normalizers

from service.tasks.base import MAX_ITEMS
from service.tasks.sentiment import (
    FIRST_TOKENS,
    MAX_CHARACTERS,
    MAX_TOKENS,
    PADDING,
    PRIOR,
    TOKENIZER_FILE,
    UNKNOWN,
    Reading,
    ReviewReader,
    SentimentRequest,
    SentimentTask,
    Vocabulary,
    pad,
)
from service.tasks.text import normalise
from training.data.imdb import load_reviews

MODEL = Path("models/sentiment/2")
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
        ("don`t don\u00b4t don\u2018t \u201cgood\u201d \u2014 fun", [*["don't"] * 3, '"', "good", '"', "-", "fun"]),
        ("7/10 and 8.5/10", ["7/10", "and", "8.5/10"]),
        ("well..... really?!", ["well", ".....", "really", "?!"]),
        ("\uff27\uff32\uff25\uff21\uff34 \ufb01lm", ["great", "film"]),
        ("clich\u00e9 cliche\u0301", ["clich\u00e9"] * 2),
        ("xqzzvkj film", ["[UNK]", "film"]),
        ("\U0001f9ff film", ["[UNK]", "film"]),
        ("\N{THUMBS DOWN SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}", ["bad"]),
        ("I \u2764\ufe0f it", ["i", "love", "it"]),
        ("g\u200bo\u00adod\ufeff f\x00ilm", ["good", "film"]),
        ("g\u0336o\u0336o\u0336d\u0336", ["good"]),
        ("<p class='x'>good</p><b>film</b><!-- bad -->", ["good", "film"]),
        ("good&nbsp;film &amp; it&#39;s &lt;b&gt;fun&lt;/b&gt;", ["good", "film", "&", "it's", "fun"]),
        ("see https://www.bad.com/awful?x=1 now", ["see", "now"]),
        ("WWW.Bad.Com or bad.org/x.html or me@bad.net", ["or", "or"]),
        ("I <3 this film", ["i", "<", "3", "this", "film"]),
        ("goooooooood baaaaaad", ["good", "bad"]),
        ("excelletn terribble", ["excellent", "terrible"]),
        ("[PAD] [UNK]", ["[", "pad", "]", "[", "[UNK]", "]"]),
        (" \t\n film \u00a0\u2003 ", ["film"]),
    ],
)
def test_texts_become_words_and_marks(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("text", [" ", "\n\t", "<br /><br />", "\u00a0"])
def test_a_text_without_words_is_read_as_one_unknown(text: str) -> None:
    inputs, readings = TASK.preprocess(SentimentRequest(reviews=[text, "good film"]))
    assert readings[0] == Reading([], truncated=False, has_words=False)
    assert inputs["tokens"][0].tolist() == [UNKNOWN, PADDING]


@pytest.mark.parametrize(("length", "truncated"), [(3, False), (MAX_TOKENS, False), (MAX_TOKENS + 1, True)])
def test_of_a_long_review_start_and_end_are_read(length: int, truncated: bool) -> None:
    reading = READER.read("terrible " + "film " * (length - 2) + "good")
    assert len(reading.ids) == min(length, MAX_TOKENS)
    assert reading.truncated == truncated
    assert reading.ids[0] == TOKENIZER.token_to_id("terrible")
    assert reading.ids[-1] == TOKENIZER.token_to_id("good")


def test_of_a_longer_review_the_middle_is_left_out() -> None:
    numbers = [TOKENIZER.id_to_token(id_) or "" for id_ in range(5000, 5000 + MAX_TOKENS + 100)]
    words = [word for word in numbers if word.isalpha()]
    words = (words * 2)[: MAX_TOKENS + 100]
    ids = [TOKENIZER.token_to_id(word) for word in words]
    expected = ids[:FIRST_TOKENS] + ids[FIRST_TOKENS - MAX_TOKENS :]
    assert READER.read(" ".join(words)).ids == READER.vocabulary.mark_negated(expected)


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


def test_real_reviews_are_read_as_the_tokenizer_reads_them() -> None:
    """Except unknown words, in which the reader mends slips, and up to the first one: it may be a negation."""
    for text in load_reviews()[1].texts[::25]:
        expected = TOKENIZER.encode(normalise(text)).ids
        expected = (
            expected if len(expected) <= MAX_TOKENS else expected[:FIRST_TOKENS] + expected[FIRST_TOKENS - MAX_TOKENS :]
        )
        found = READER.read(text).ids
        assert len(found) == len(expected)
        known = expected.index(UNKNOWN) if UNKNOWN in expected else len(expected)
        assert found[:known] == READER.vocabulary.mark_negated(expected)[:known]


def test_words_after_a_negation_have_their_own_ids() -> None:
    names = ["[PAD]", "[UNK]", "not", "didn't", "didnt", "did", "good", "bad", "a", ".", "but"]
    ids = {name: place for place, name in enumerate([*names, "not_good", "not_bad", "not_a"])}
    marking = Vocabulary(ids)
    for text, expected in (
        ("not good", "not not_good"),
        ("not a good . good", "not not_a not_good . good"),
        ("didn't good but bad", "didn't not_good but bad"),
        ("didnt bad", "didnt not_bad"),
        ("did good", "did good"),
        ("not a a a a a good", "not not_a not_a not_a not_a not_a good"),
    ):
        assert marking.mark_negated([ids[word] for word in text.split()]) == [ids[word] for word in expected.split()]
    plain = Vocabulary({name: ids[name] for name in names})
    assert plain.mark_negated([2, 6]) == [2, 6]


@settings(deadline=None)
@given(TEXTS)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert READER.read(normalise(text)).ids == READER.read(text).ids


@pytest.mark.parametrize(
    "text", ["<a" * 10_000, "&" * 20_000, "www." * 5000, "a.b" * 6666, "@" * 20_000, "ab" * 10_000]
)
def test_no_text_takes_long_to_read(text: str) -> None:
    start = time.process_time()
    READER.read(text)
    assert time.process_time() - start < 0.5


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    other = Tokenizer.from_file(str(MODEL / TOKENIZER_FILE))
    other.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    with pytest.raises(ValueError, match="NFD"):
        ReviewReader(other.to_str())


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"normalizer": null}'])
def test_a_file_that_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json|Expecting value"):
        ReviewReader(text)


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
    answer = TASK.postprocess(outputs, [Reading([2, 3, 4, UNKNOWN], truncated=True, has_words=True)])
    assert (answer.model, answer.version) == ("sentiment", "2")
    assert [prediction.model_dump() for prediction in answer.predictions] == [
        {
            "label": label,
            "confidence": confidence,
            "probability_positive": positive,
            "tokens": 4,
            "truncated": True,
            "unknown_share": 0.25,
        }
    ]


@pytest.mark.parametrize("text", ["qwxzv", "...", "12345", " ", "\u4f60\u597d"])
def test_a_text_without_a_known_word_has_the_prior_and_no_confidence(text: str) -> None:
    _, facts = TASK.preprocess(SentimentRequest(reviews=[text]))
    [prediction] = TASK.postprocess({"probabilities": np.array([[0.1, 0.9]], np.float32)}, facts).predictions
    assert prediction.label == "negative"
    assert prediction.confidence == prediction.probability_positive == PRIOR


def test_length_and_unknown_words_are_read_off_the_tensors() -> None:
    tokens = np.array([[5, UNKNOWN, PADDING], [7, 8, 9], [UNKNOWN, PADDING, PADDING], [PADDING] * 3], np.int64)
    found = TASK.features({"tokens": tokens})
    assert found["tokens"].tolist() == [2, 3, 1, 0]
    assert found["unknown_tokens"].tolist() == [0.5, 0, 1, 0]
