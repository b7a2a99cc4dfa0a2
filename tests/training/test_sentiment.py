"""The sentiment model that is committed, from its graph, and the parts of the training that made it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.onnx.runtime import ort
from service.engine.session import Precision
from service.registry.card import GRAPHS, Card, digests
from service.tasks.sentiment import ReviewReader, pad
from tests.paths import MODELS
from training import version
from training.data.imdb import Reviews, load_reviews
from training.sentiment import onnx_graph as sentiment_graph
from training.sentiment.blend import best_blend
from training.sentiment.evaluate import CLASSES
from training.sentiment.linear import LinearModel, bigrams, count, distinct, fit_linear
from training.sentiment.model import FULL, Blend, Linear, Recurrent, Sentiment, Table
from training.sentiment.short import cut, ends_of_sentences, find_statements, sentences
from training.sentiment.tokens import bucketed, make_tokenizer, plain_ids
from training.sentiment.train import SMOKE, Hyperparameters
from training.sentiment.vectors import word_vectors

MODEL = MODELS / "sentiment" / "2"
MEGABYTE = 2**20

Judge = Callable[[str], float]
IDS = st.lists(st.integers(1, 29_999), min_size=1, max_size=60)


@pytest.fixture(scope="module", params=GRAPHS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return cast(Precision, request.param)


@pytest.fixture(scope="module")
def graph(precision: Precision) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(MODEL / GRAPHS[precision], options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def judge(graph: ort.InferenceSession) -> Judge:
    """The probability that a text is positive."""
    reader = ReviewReader.of(MODEL)
    return lambda text: float(probabilities(graph, pad([reader.read(text).ids]))[0, 1])


@pytest.fixture(scope="module")
def held_out() -> Reviews:
    return load_reviews()[1]


def probabilities(graph: ort.InferenceSession, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    found, _ = graph.run(None, {"tokens": tokens})
    assert isinstance(found, np.ndarray)
    return found


def test_the_card_meets_the_bars() -> None:
    card = Card.read(MODEL)
    assert card.classes == CLASSES
    assert card.files == digests(MODEL)
    assert card.figures["accuracy"].value >= 0.922
    assert card.figures["accuracy_recurrent"].value >= 0.915
    assert card.figures["calibration_error"].value <= 0.02
    for name in (
        "accuracy",
        "accuracy_recurrent",
        "accuracy_linear",
        "area_under_roc",
        "log_loss",
    ):
        figure = card.figures[name]
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high


def test_the_directory_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 22 * MEGABYTE


def test_the_graph_takes_any_batch_and_length(graph: ort.InferenceSession) -> None:
    assert [(put.name, put.type, put.shape) for put in graph.get_inputs()] == [
        ("tokens", "tensor(int64)", ["batch", "length"])
    ]
    assert [(put.name, put.type, put.shape) for put in graph.get_outputs()] == [
        ("probabilities", "tensor(float)", ["batch", 2]),
        ("log_odds", "tensor(float)", ["batch", 2]),
    ]
    model = onnx.load(MODEL / "model.onnx", load_external_data=False)
    assert model.opset_import[0].version >= 17
    assert {tensor.name for tensor in model.graph.initializer if tensor.external_data} == {"words", "bigrams", "linear"}


def test_the_reference_can_run_anywhere() -> None:
    model = onnx.load(MODEL / "model.onnx", load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}


def test_eight_bits_lose_no_accuracy() -> None:
    card = Card.read(MODEL)
    assert card.int8 is not None
    assert card.int8.served
    for name, figure in card.int8.figures.items():
        assert figure.value == pytest.approx(card.figures[name].value, abs=0.001)


def test_golden_cases_come_out_as_in_training(graph: ort.InferenceSession, precision: Precision) -> None:
    golden = np.load(MODEL / "golden.npz")
    assert len(golden["in:tokens"]) >= 16
    lengths = (golden["in:tokens"] != 0).sum(1)
    assert lengths.max() > 10 * lengths.min()
    found = probabilities(graph, golden["in:tokens"])
    recorded = {"float32": "out:probabilities", "int8": "int8:probabilities"}
    np.testing.assert_allclose(found, golden[recorded[precision]], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found, golden["out:probabilities"], atol=0.01, rtol=0)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(IDS, min_size=1, max_size=6), more=st.integers(0, 30))
def test_a_review_is_judged_alike_alone_and_among_others(
    graph: ort.InferenceSession, rows: list[list[int]], more: int
) -> None:
    together = probabilities(graph, np.pad(pad(rows), ((0, 0), (0, more))))
    alone = np.concatenate([probabilities(graph, pad([row])) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)


def test_long_reviews_are_judged_alike_in_any_company(graph: ort.InferenceSession) -> None:
    tokens = np.load(MODEL / "golden.npz")["in:tokens"]
    together = probabilities(graph, tokens)
    for row, expected in zip(tokens, together, strict=True):
        length = np.count_nonzero(row)
        np.testing.assert_allclose(probabilities(graph, row[None, :length])[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [[0], [0, 0, 0, 0, 0], [-1, 5], [10**6], [2**62, -(2**63)]])
def test_numbers_that_are_no_token_get_an_answer_all_the_same(graph: ort.InferenceSession, tokens: list[int]) -> None:
    found = probabilities(graph, np.array([tokens], np.int64))
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("A wonderful film, beautifully acted. I loved every minute.", True),
        ("One of the best movies I have ever seen. Highly recommended!", True),
        ("Superb. The cast is excellent and the story is touching.", True),
        ("Funny, charming and moving; a masterpiece. 10/10", True),
        ("What a waste of time. The acting is awful and the plot makes no sense.", False),
        ("Terrible. I want my two hours back.", False),
        ("Boring, predictable and badly written. Avoid it. 2/10", False),
        ("The worst movie I have ever seen.", False),
    ],
)
def test_plain_opinions_are_understood(judge: Judge, text: str, positive: bool) -> None:
    assert (judge(text) > 0.5) == positive


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("The acting was great.", "The acting was terrible."),
        ("I would recommend this film.", "I would not recommend this film."),
        ("This is a good movie.", "This is not a good movie."),
        ("It was worth watching.", "It wasn't worth watching."),
        ("I give it 9/10.", "I give it 2/10."),
        ("An excellent script and a strong cast.", "A poor script and a weak cast."),
        ("I was never bored.", "I was bored."),
        ("The film is fun.", "The film is supposed to be fun."),
    ],
)
def test_a_change_of_words_moves_the_judgement_the_right_way(judge: Judge, better: str, worse: str) -> None:
    assert judge(better) > judge(worse) + 0.02


@pytest.mark.parametrize("change", [str.upper, str.title, lambda text: f"  {text}\n", lambda text: text + "<br />"])
def test_case_and_space_do_not_matter(judge: Judge, change: Callable[[str], str]) -> None:
    text = "The story is thin, the actors are not, and I did enjoy it after all."
    assert judge(change(text)) == judge(text)


def test_names_of_places_hardly_matter(judge: Judge) -> None:
    opinions = [judge(f"A family from {place} moves to the country. It is a nice film.") for place in ("Paris", "Rome")]
    assert np.ptp(opinions) < 0.15


def test_real_reviews_are_told_apart(graph: ort.InferenceSession, held_out: Reviews) -> None:
    some = held_out[np.arange(0, len(held_out), 50)]
    reader = ReviewReader.of(MODEL)
    ids = [reader.read(text).ids for text in some.texts]
    right = [
        (probabilities(graph, pad([row]))[0].argmax() == label) for row, label in zip(ids, some.labels, strict=True)
    ]
    assert np.mean(right) >= 0.88  # 500 of them: three standard errors below what all 25,000 give


@given(st.lists(IDS, min_size=1, max_size=5))
def test_the_features_are_the_distinct_words_and_bigrams(rows: list[list[int]]) -> None:
    vocabulary, buckets = 30_000, 2**16
    tokens = torch.from_numpy(pad(rows))
    pairs = bigrams(tokens, buckets).tolist()
    features, fresh = distinct(tokens, vocabulary, buckets)
    for row, ids in enumerate(rows):
        assert all(1 <= pair < buckets for pair in pairs[row][: len(ids) - 1])
        assert not any(pairs[row][len(ids) - 1 :])
        expected = {*ids, *(vocabulary + pair for pair in pairs[row][: len(ids) - 1])}
        found = features[row][fresh[row]].tolist()
        assert len(found) == len(expected)
        assert set(found) == expected


def test_the_linear_model_learns_what_words_say_and_the_graph_adds_it_up() -> None:
    h = Hyperparameters(vocabulary=50, linear_buckets=1000)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    # Words 10 and 11 give the label away, the others nothing.
    rows = [[*generator.integers(12, 50, 20).tolist(), 10 + int(label)] for label in labels]
    counts = count([torch.from_numpy(pad(rows))], h.vocabulary, h.linear_buckets)
    model = fit_linear(counts, labels, strength=0.3, iterations=40)
    assert model.weights[10] < -0.3
    assert model.weights[11] > 0.3
    logits = model.logits(counts)
    assert ((logits > 0) == labels).mean() > 0.98
    summed = Linear(model, h)(torch.from_numpy(pad(rows))).numpy()
    np.testing.assert_allclose(summed, logits, atol=1e-2)  # the graph keeps the weights in two bytes


def test_words_in_the_same_company_have_similar_vectors() -> None:
    generator = np.random.default_rng(0)
    # 2 and 3 stand among the words 10 to 19, 4 among 20 to 29.
    reviews = [
        [word, *(generator.integers(0, 10, 3) + place).tolist()]
        for word, place in [(2, 10), (3, 10), (4, 20)]
        for _ in range(300)
    ]
    vectors = word_vectors(reviews, 40, 8, seed=0)
    assert vectors.shape == (40, 8)
    assert not vectors[[0, 1, 39]].any()
    two, three, four = (vectors[word] / np.linalg.norm(vectors[word]) for word in (2, 3, 4))
    assert two @ three > 0.9
    assert two @ four < 0.5
    np.testing.assert_array_equal(vectors, word_vectors(reviews, 40, 8, seed=0))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=500), st.integers(1, 40))
def test_batches_hold_every_row_once_and_like_with_like(lengths: list[int], size: int) -> None:
    batches = list(bucketed(lengths, size))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    if len(lengths) <= 50 * size:
        spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_compressed_table_is_off_by_half_a_step_at_most() -> None:
    torch.manual_seed(0)
    table = Table(200, 16)
    ids = torch.arange(200)
    before = table(ids).detach()
    table.compress()
    assert table.codes.dtype == torch.int8
    assert not table(ids)[0].any()
    assert ((table(ids) - before).abs() <= table.scale * 0.501).all()


def test_the_blend_weighs_by_worth_and_calibrates_by_length() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 20_000)
    known = generator.choice([FULL // 8, FULL, 2 * FULL], 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    noise = generator.normal(0, 2, 20_000)
    # Short texts sound twice as strong as they are, and more positive.
    strength = np.where(known < FULL, 2, 1)
    parts = np.column_stack([strength * (3 * truth + 1), noise]).astype(np.float32)
    blend = best_blend(parts, torch.from_numpy(known), labels)
    deep, wide, offset = blend.weights
    assert deep == pytest.approx(1 / 3, abs=0.03)
    assert wide == pytest.approx(0, abs=0.05)
    assert offset == pytest.approx(-1 / 3, abs=0.06)
    logits = blend.logits(torch.from_numpy(parts), torch.from_numpy(known)).numpy()
    np.testing.assert_allclose(logits, truth, atol=1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_either_cell_exports_to_what_torch_says(cell: Literal["lstm", "gru"], tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    h = Hyperparameters(**{**SMOKE, "cell": cell})
    plain = np.r_[np.arange(h.vocabulary), 10 + np.arange(h.negated)]
    recurrent = Recurrent(h, plain)
    with torch.no_grad():
        for parameter in recurrent.parameters():
            parameter.normal_(0, 0.3)
        for table in (recurrent.words, recurrent.bigrams):
            table.weight[0] = 0  # the vector of padding
    rows = [generator.integers(1, len(plain), length).tolist() for length in (1, 2, 3, 4, 5, 17, 64, 130)]
    with torch.inference_mode():
        before = recurrent.eval()(torch.from_numpy(pad(rows)))
        recurrent.compress()
        np.testing.assert_allclose(recurrent(torch.from_numpy(pad(rows))), before, atol=0.2)
    weights = generator.normal(0, 0.01, len(plain) + h.linear_buckets).astype(np.float32)
    blend = Blend((0.5, 0.5, 0.1), (0.1, -0.2, 0.3))
    network = Sentiment(recurrent, Linear(LinearModel(weights, 0.1), h), blend)
    directory = tmp_path / "sentiment" / "1"
    directory.mkdir(parents=True)
    exact, rounded = (sentiment_graph.write(network, directory, precision) for precision in ("float32", "int8"))
    batches = [{"tokens": pad(some)} for some in ([rows[0]], rows, rows[3:5], rows[:3])]
    batches += [{"tokens": np.pad(pad(rows[:3]), ((0, 0), (0, 9)))}, {"tokens": np.array([[3, len(plain), -1, 5]])}]
    assert version.check_parity(network, exact, batches) <= 1e-5
    assert version.check_parity(network, rounded, batches, tolerance=0.1) > 1e-5
    alone = np.concatenate([version.run_torch(network, {"tokens": pad([row])})[0] for row in rows])
    np.testing.assert_allclose(version.run_torch(network, {"tokens": pad(rows)})[0], alone, atol=1e-6)


def test_the_tokenizer_keeps_the_commonest_words_and_negates_some() -> None:
    tokenizer = make_tokenizer(["Good good <br /> film, film film.", "good bad"], 5, 3)
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "film": 2, "good": 3, "not_film": 4}
    assert plain_ids(tokenizer).tolist() == [0, 1, 2, 3, 2]


STATEMENTS = ["the plot was great .", "the cast is awful !", "i really liked the music .", "it is what it is ."]


def test_statements_are_found_and_negated() -> None:
    texts = ["not never didn't isn't wasn't did like"] * 2 + STATEMENTS * 20
    tokenizer = make_tokenizer(texts, 100, 100)
    reader = ReviewReader(tokenizer.to_str())
    weights = np.zeros(len(reader.vocabulary), np.float32)
    weights[[reader.vocabulary["great"], reader.vocabulary["awful"]]] = 1, -1
    plain = plain_ids(tokenizer)
    found = find_statements([plain[reader.read(text).ids].tolist() for text in texts], weights, reader)

    def texts_of(said: str, negated: bool) -> set[str]:
        names = {number: word for word, number in reader.vocabulary.items()}
        return {" ".join(names[number] for number in ids) for ids in found.kinds[said, negated]}

    assert texts_of("good", False) == {"the plot was great .", "i really liked the music ."}
    assert texts_of("bad", False) == {"the cast is awful !"}
    assert "the plot was not not_great ." in texts_of("good", True)
    assert "the plot wasn't not_great ." in texts_of("good", True)
    assert "the cast is never not_awful !" in texts_of("bad", True)
    assert "i really didn't not_like not_the not_music ." in texts_of("good", True)
    ids, positive = found.draw(50, np.random.default_rng(0))
    assert len(ids) == len(positive) == 50
    assert 0 < positive.min() < 0.5 < positive.max() < 1


def test_sentences_are_cut_where_they_end() -> None:
    ends = frozenset([9])
    ids = [1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 8]
    assert sentences(ids, ends) == [(0, 3), (5, 9)]
    generator = np.random.default_rng(0)
    found = {tuple(cut(ids, ends, generator, longest=1)) for _ in range(50)}
    assert found == {(1, 2, 9), (4, 5, 6, 9)}
    assert cut([1], ends, generator) == [1]
    reader = ReviewReader(make_tokenizer(["good . ? !! film"] * 2, 20, 0).to_str())
    assert ends_of_sentences(reader) == {reader.vocabulary[mark] for mark in (".", "?", "!!")}
