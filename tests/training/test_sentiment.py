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
from training.sentiment.evaluate import CLASSES
from training.sentiment.linear import LinearModel, bigrams, count, distinct, fit_linear
from training.sentiment.model import Linear, Recurrent, Sentiment, Table
from training.sentiment.tokens import bucketed, make_tokenizer
from training.sentiment.train import SMOKE, Hyperparameters, fit_blend
from training.sentiment.vectors import word_vectors

MODEL = MODELS / "sentiment" / "1"
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
    assert card.figures["accuracy"].value >= 0.915
    assert card.figures["accuracy_recurrent"].value >= 0.903
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


@pytest.mark.parametrize("tokens", [[0], [0, 0, 0, 0, 0], [-1, 5], [30_000], [2**62, -(2**63)]])
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


def test_the_blend_weighs_by_worth_and_calibrates() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    noise = generator.normal(0, 2, 20_000)
    deep, wide, offset = fit_blend((3 * truth + 1).astype(np.float32), noise.astype(np.float32), labels)
    assert deep == pytest.approx(1 / 3, abs=0.03)
    assert wide == pytest.approx(0, abs=0.05)
    assert offset == pytest.approx(-1 / 3, abs=0.06)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_either_cell_exports_to_what_torch_says(cell: Literal["lstm", "gru"], tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    h = Hyperparameters(**{**SMOKE, "cell": cell})
    recurrent = Recurrent(h)
    with torch.no_grad():
        for parameter in recurrent.parameters():
            parameter.normal_(0, 0.3)
        for table in (recurrent.words, recurrent.bigrams):
            table.weight[0] = 0  # the vector of padding
    recurrent.words.compress()
    recurrent.bigrams.compress()
    weights = generator.normal(0, 0.01, h.vocabulary + h.linear_buckets).astype(np.float32)
    network = Sentiment(recurrent, Linear(LinearModel(weights, 0.1), h), [0.5, 0.5, 0.1])
    rows = [generator.integers(1, h.vocabulary, length).tolist() for length in (1, 2, 3, 4, 5, 17, 64, 130)]
    directory = tmp_path / "sentiment" / "1"
    directory.mkdir(parents=True)
    exact, rounded = (sentiment_graph.write(network, directory, precision) for precision in ("float32", "int8"))
    batches = [{"tokens": pad(some)} for some in ([rows[0]], rows, rows[3:5], rows[:3])]
    batches += [{"tokens": np.pad(pad(rows[:3]), ((0, 0), (0, 9)))}, {"tokens": np.array([[3, h.vocabulary, -1, 5]])}]
    assert version.check_parity(network, exact, batches) <= 1e-5
    assert version.check_parity(network, rounded, batches, tolerance=0.1) > 1e-5
    alone = np.concatenate([version.run_torch(network, {"tokens": pad([row])})[0] for row in rows])
    np.testing.assert_allclose(version.run_torch(network, {"tokens": pad(rows)})[0], alone, atol=1e-6)


def test_the_tokenizer_keeps_the_commonest_words() -> None:
    tokenizer = make_tokenizer(["Good good <br /> film, film film.", "good bad"], 5)
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "film": 2, "good": 3}
