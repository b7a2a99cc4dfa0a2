"""Tells whether a film reviewer liked the film: a recurrent network and, beside it, a linear model on bigrams.

    python -m training sentiment                  # about half an hour on one core
    python -m training sentiment --cell gru
    python -m training sentiment --smoke          # the whole way on little data

Wide and deep (Cheng et al., 2016) in one graph. Deep: vectors of words and of bigrams, a convolution, the strongest of
every four places, an LSTM each way, and the mean and maximum of what they say over time. Wide: one weight per word and
bigram. Both are fitted twice: on part of the reviews, so that the others show how to weigh and calibrate them, and then
on all. Reviews of one film never stand on both sides of that cut, and no text of the test split is trained on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from service.engine.card import Figure, TensorSpec
from service.predictors.sentiment import MAX_TOKENS, PADDING, TOKENIZER_FILE, UNKNOWN, ReviewReader, pad
from training import datasets, evaluate, export
from training.datasets import IMDB, Reviews
from training.run import Precision, Run
from training.sentiment_counts import LinearModel, bigrams, count, distinct, fit_linear, word_vectors

CLASSES = ("negative", "positive")
TOKEN = r"\d+(?:\.\d+)?/\d+|\w+(?:'\w+)*|\.\.+|[!?]+|[^\w\s]"
"""Marks out of ten, words with their apostrophes, runs of dots and of exclamation marks, any other mark by itself."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Hyperparameters:
    """Chosen on about 2,500 reviews cut from the training split, films kept together."""

    cell: Literal["lstm", "gru"] = "lstm"
    epochs: int = 2
    batch_size: int = 32
    lr: float = 1e-3
    table_lr: float = 5e-4
    """Of the vectors: they start from what counting taught, and few reviews know a rare word."""
    max_length: int = 400
    """Tokens of a review that training looks at, the last ones; the graph takes any number."""
    vocabulary: int = 30_000
    buckets: int = 2**17
    """Vectors for bigrams, which are hashed into that many."""
    word_width: int = 96
    bigram_width: int = 64
    channels: int = 128
    hidden: int = 64
    """Units of the recurrent layer, each way."""
    word_dropout: float = 0.1
    """Share of the words, and of the bigrams, that are unknown to a training step."""
    bigram_dropout: float = 0.1
    vector_dropout: float = 0.3
    """Share of the vectors' components that are left out, the same ones over a whole review."""
    output_dropout: float = 0.4
    clip: float = 1.0
    linear_buckets: int = 2**21
    linear_strength: float = 0.3
    linear_iterations: int = 40
    held_out: int = 2500
    precision: Precision = "bfloat16"


SMOKE = {
    "epochs": 1,
    "max_length": 100,
    "vocabulary": 2000,
    "buckets": 2**12,
    "word_width": 16,
    "bigram_width": 16,
    "channels": 16,
    "hidden": 16,
    "linear_buckets": 2**14,
    "linear_iterations": 10,
    "held_out": 200,
}


class Table(nn.Embedding):
    """Vectors by id, id 0 always zero; `compress` keeps them in one byte a component."""

    codes: Tensor
    scale: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, padding_idx=PADDING, sparse=True)
        nn.init.normal_(self.weight, std=0.02)
        with torch.no_grad():
            self.weight[PADDING] = 0

    def forward(self, ids: Tensor) -> Tensor:
        if self.weight is not None:
            return super().forward(ids)
        vectors: Tensor = F.embedding(ids, self.codes).to(torch.float32) * self.scale
        return vectors

    def compress(self) -> None:
        """Rounds each column to 255 steps, for good."""
        weight = self.weight.detach()
        self.scale = nn.Buffer(weight.abs().amax(0).clamp(min=1e-12) / 127)
        self.codes = nn.Buffer((weight / self.scale).round().to(torch.int8))
        self.register_parameter("weight", None)


class Recurrent(nn.Module):
    """Token ids, int64 `[batch, length]`, padded on the right with 0, to the log-odds that each is positive."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.h = h
        self.words = Table(h.vocabulary, h.word_width)
        self.bigrams = Table(h.buckets, h.bigram_width)
        self.mix = nn.Linear(h.word_width + h.bigram_width, 3 * h.channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(h.channels))
        layer = nn.LSTM if h.cell == "lstm" else nn.GRU
        self.forwards = layer(h.channels, h.hidden, batch_first=True)
        self.backwards = layer(h.channels, h.hidden, batch_first=True)
        self.out = nn.Linear(4 * h.hidden, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        tokens = F.pad(tokens, (0, (length + 3) // 4 * 4 - length))
        known = tokens != PADDING
        places = self._convolve(self._vectors(tokens)).masked_fill(~known[..., None], -1e4)
        quarters = places.reshape(tokens.shape[0], -1, 4, self.h.channels).amax(2).relu()
        known = known[:, ::4]
        lengths = known.sum(1, keepdim=True).clamp(min=1)
        position = torch.arange(quarters.shape[1], device=tokens.device)
        mirror = torch.where(position < lengths, lengths - 1 - position, position)[..., None].expand_as(quarters)
        # Reading backwards starts at each review's own end, or what a review says would depend on its neighbours.
        states = torch.cat(
            [_states(self.forwards, quarters), _states(self.backwards, quarters.gather(1, mirror))], dim=2
        ).float()
        highest = states.masked_fill(~known[..., None], -1).amax(1)
        mean = (states * known[..., None]).sum(1) / lengths
        pooled = F.dropout(torch.cat([highest, mean], dim=1), self.h.output_dropout, self.training)
        logits: Tensor = self.out(pooled)
        return logits[:, 0]

    def _vectors(self, tokens: Tensor) -> Tensor:
        """A vector for each place, of its word and of the bigram that starts there: `[batch, length, width]`."""
        pairs = bigrams(tokens, self.h.buckets)
        words = tokens
        if self.training:
            words = torch.where(_chosen(tokens, self.h.word_dropout) & (tokens != PADDING), UNKNOWN, words)
            pairs = torch.where(_chosen(tokens, self.h.bigram_dropout), PADDING, pairs)
        vectors = torch.cat([self.words(words), self.bigrams(pairs)], dim=2)
        kept = F.dropout(torch.ones_like(vectors[:, :1]), self.h.vector_dropout, self.training)
        return vectors * kept if self.training else vectors

    def _convolve(self, vectors: Tensor) -> Tensor:
        """A convolution over three places: one matrix product, its thirds shifted and added."""
        before, here, after = self.mix(vectors).chunk(3, dim=2)
        mixed: Tensor = F.pad(before, (0, 0, 1, 0))[:, :-1] + here + F.pad(after, (0, 0, 0, 1))[:, 1:]
        return mixed + self.bias


class Linear(nn.Module):
    """Token ids to log-odds by adding up the weights of the words and bigrams that occur, each once."""

    def __init__(self, model: LinearModel, h: Hyperparameters) -> None:
        super().__init__()
        self.vocabulary, self.buckets = h.vocabulary, h.linear_buckets
        self.weights = nn.Buffer(torch.from_numpy(model.weights[:, None]).half())
        self.bias = model.bias

    def forward(self, tokens: Tensor) -> Tensor:
        features, fresh = distinct(tokens, self.vocabulary, self.buckets)
        weights = F.embedding(features, self.weights)[..., 0].float()
        logits: Tensor = (weights * fresh).sum(1) + self.bias
        return logits


class Sentiment(nn.Module):
    """Token ids, int64 `[batch, length]`, to probabilities, float32 `[batch, 2]`: negative, positive."""

    def __init__(self, recurrent: Recurrent, linear: Linear, blend: Sequence[float]) -> None:
        super().__init__()
        self.recurrent, self.linear = recurrent, linear
        self.blend = blend

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.where((tokens < 0) | (tokens >= self.recurrent.h.vocabulary), UNKNOWN, tokens)
        deep, wide, offset = self.blend
        logits = deep * self.recurrent(tokens) + wide * self.linear(tokens) + offset
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)


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


def train(h: Hyperparameters, run: Run) -> None:
    """Trains, exports and measures the classifier; writes `run.out`."""
    published, test = datasets.reviews(run.data_dir)
    everything = published.without(test)
    if run.smoke:
        everything, test = everything[np.arange(0, len(everything), 25)], test[np.arange(0, len(test), 50)]
    reader = ReviewReader(make_tokenizer(everything.texts, h.vocabulary))
    part, rest = (Corpus.of(reviews, reader) for reviews in everything.split(h.held_out, run.seed))
    vectors = torch.from_numpy(word_vectors((part + rest).ids, h.vocabulary, h.word_width, run.seed))
    state = run.restore()
    blend: list[float] | None = None if state is None else state["blend"]
    if blend is None:
        recurrent = fit(Recurrent(h), vectors, part, h, run, validation=rest, state=state)
        blend = fit_blend(logits_of(recurrent, rest.ids), logits_of(linear(part, h), rest.ids), rest.labels)
        state = None
    recurrent = fit(Recurrent(h), vectors, part + rest, h, run, blend=blend, state=state)
    recurrent.words.compress()
    recurrent.bigrams.compress()
    network = Sentiment(recurrent, linear(part + rest, h), blend)
    write(network, reader, Corpus.of(test, reader), len(rest.ids), h, run)


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


def fit(
    network: Recurrent,
    vectors: Tensor,
    corpus: Corpus,
    h: Hyperparameters,
    run: Run,
    *,
    validation: Corpus | None = None,
    blend: list[float] | None = None,
    state: dict[str, Any] | None = None,
) -> Recurrent:
    """Adam with a learning rate that falls to nothing; the tables of vectors only where a batch touched them.

    Args:
        vectors: what the words start from, float32 `[vocabulary, word_width]`.
        validation: measured after each epoch.
        blend: kept in the checkpoint.
        state: the checkpoint to go on from.
    """
    network.words.weight.data.copy_(vectors)
    network.to(run.device)
    tables = [network.words.weight, network.bigrams.weight]
    others = [p for p in network.parameters() if all(p is not table for table in tables)]
    optimizers = {"sparse": torch.optim.SparseAdam(tables, h.table_lr), "dense": torch.optim.Adam(others, h.lr)}
    done = 0
    if state is not None:
        done = state["epoch"]
        network.load_state_dict(state["network"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state[name])
        torch.set_rng_state(state["generator"].cpu())  # once more: the network has drawn its first weights since
    steps = -(-len(corpus.ids) // h.batch_size)
    for epoch in range(done + 1, h.epochs + 1):
        network.train()
        losses, right = [], []
        batches = bucketed([min(len(ids), h.max_length) for ids in corpus.ids], h.batch_size)
        for step, rows in enumerate(run.progress(batches, f"epoch {epoch}", steps), (epoch - 1) * steps):
            labels = torch.from_numpy(corpus.labels[rows]).to(run.device)
            with run.autocast(h.precision):
                logits = network(padded(corpus.ids, rows, h.max_length).to(run.device))
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
            pace = min(1, (step + 1) / 100) * max(0.02, 1 - step / (steps * h.epochs))
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * pace
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(others, h.clip)
            for optimizer in optimizers.values():
                optimizer.step()
            losses.append(loss.item())
            right.append(((logits > 0) == (labels > 0)).float().mean().item())
        figures = {"loss": float(np.mean(losses)), "training_accuracy": float(np.mean(right))}
        if validation is not None:
            logits_held_out = logits_of(network, validation.ids)
            figures["validation_accuracy"] = float(((logits_held_out > 0) == validation.labels).mean())
            figures["validation_auc"] = evaluate.area_under_roc(logits_held_out, validation.labels)
        run.log(epoch, **figures)
        run.save(
            epoch,
            blend=blend,
            network=network.state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        )
    return network


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


def linear(corpus: Corpus, h: Hyperparameters) -> Linear:
    """The linear model of these reviews."""
    batches = (padded(corpus.ids, range(i, min(i + 64, len(corpus.ids)))) for i in range(0, len(corpus.ids), 64))
    counts = count(batches, h.vocabulary, h.linear_buckets)
    return Linear(fit_linear(counts, corpus.labels, h.linear_strength, h.linear_iterations), h)


@torch.inference_mode()
def logits_of(network: Recurrent | Linear, ids: Sequence[list[int]]) -> Floats:
    """Log-odds in evaluation mode, float32 `[n]`, at each review's full length."""
    network.eval()
    device = next(network.buffers(), next(network.parameters(), torch.empty(0))).device
    logits = np.empty(len(ids), np.float32)
    for rows in by_length(ids):
        logits[rows] = network(padded(ids, rows).to(device)).float().cpu().numpy()
    return logits


def by_length(ids: Sequence[list[int]], size: int = 64) -> Iterator[Rows]:
    """Rows in batches of about equal length, the shortest first."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))


def fit_blend(deep: Floats, wide: Floats, labels: Rows) -> list[float]:
    """The weights of both log-odds and the offset that make held-out labels likeliest: they join and calibrate."""
    signs = 2 * labels - 1

    def loss(blend: npt.NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -signs * (blend[0] * deep + blend[1] * wide + blend[2])).mean())

    return [float(value) for value in minimize(loss, (0.5, 0.5, 0.0)).x]


def write(network: Sentiment, reader: ReviewReader, test: Corpus, held_out: int, h: Hyperparameters, run: Run) -> None:
    """Exports, proves, and measures on the test split: the only time that it is looked at."""
    directory = export.start(run.out)
    reader.save(directory)
    network.cpu()
    alone = {"recurrent": logits_of(network.recurrent, test.ids), "linear": logits_of(network.linear, test.ids)}
    graph = export.write_graph(
        network,
        directory,
        {"tokens": padded(test.ids, range(2)).numpy()},
        ("probabilities",),
        {"tokens": {0: "batch", 1: "length"}},
    )
    export.check_parity(network, graph, _batches_of_many_shapes(test))
    order = np.argsort([len(ids) for ids in test.ids], kind="stable")
    golden = padded(test.ids, order[np.linspace(0, len(order) - 1, 24).astype(int)]).numpy()
    export.write_golden(network, directory, {"tokens": golden}, "probabilities")
    probabilities = _served(graph, test)
    predicted = probabilities.argmax(1)
    evaluate.plot_learning_curve(
        [row for row in run.history if "validation_accuracy" in row], directory / "learning_curve.png"
    )
    evaluate.plot_confusion(predicted, test.labels, CLASSES, directory / "confusion_matrix.png")
    evaluate.plot_reliability(probabilities[:, 1], test.labels == 1, directory / "reliability.png")
    how = f"{len(test.ids):,} IMDB test reviews, through the ONNX graph"
    export.write_card(
        directory,
        title="Sentiment, LSTM beside bigrams" if h.cell == "lstm" else "Sentiment, GRU beside bigrams",
        task="Does the reviewer like the film",
        inputs=(
            TensorSpec(
                name="tokens",
                dtype="int64",
                shape=("batch", "length"),
                meaning=f"ids of the last {MAX_TOKENS} words and marks by {TOKENIZER_FILE}, padded on the right with 0",
                range=f"0 to {h.vocabulary - 1}; any other number is an unknown word",
            ),
        ),
        outputs=(
            TensorSpec(
                name="probabilities",
                dtype="float32",
                shape=("batch", 2),
                meaning="probability that the review is negative, and positive",
                range="0 to 1, each row sums to 1",
            ),
        ),
        classes=CLASSES,
        figures={
            "accuracy": evaluate.accuracy(predicted, test.labels, how),
            "accuracy_recurrent": evaluate.accuracy(
                (alone["recurrent"] > 0).astype(np.int64), test.labels, "the recurrent network alone, same reviews"
            ),
            "accuracy_linear": evaluate.accuracy(
                (alone["linear"] > 0).astype(np.int64), test.labels, "the linear model alone, same reviews"
            ),
            "auc": evaluate.bootstrap(
                evaluate.area_under_roc, probabilities[:, 1], test.labels, how=how, resamples=200
            ),
            "log_loss": evaluate.bootstrap(evaluate.log_loss, probabilities, test.labels, how=how),
            "calibration_error": evaluate.bootstrap(
                evaluate.calibration_error, probabilities[:, 1], test.labels == 1, how=how + "; 10 bins"
            ),
            "weight_recurrent": Figure(value=network.blend[0], how="of its log-odds, by the validation reviews"),
            "weight_linear": Figure(value=network.blend[1], how="of its log-odds, by the validation reviews"),
        },
        data=(
            IMDB.describe(
                {
                    "training": "the 25,000 training reviews but 123 whose text stands in the test split word for word",
                    "validation": f"{held_out:,} of these, drawn by film with seed {run.seed}: epochs, the weights of "
                    "the two parts and calibration; the served model is then fitted on them too",
                    "test": "the 25,000 test reviews, for the figures alone",
                }
            ),
        ),
        training=run.finish(h),
        intended_use="Reviews of films in English, as people write them on the web. A course's classic, done properly.",
        limits=(
            "Trained on strong opinions (1 to 4 and 7 to 10 of 10 stars): a lukewarm review is forced to one side.",
            "Other subjects than films, other languages, irony and quoted opinions mislead it.",
            'It knows negations that reviewers often use, not every one: "never gets boring" sounds boring to it.',
            f"Of a review of more than {MAX_TOKENS:,} words and marks only the last ones are read.",
            "It knows the actors and directors of 2011 and before by their reputation then, and leans on it.",
        ),
    )


def _batches_of_many_shapes(test: Corpus) -> Iterator[dict[str, Rows]]:
    """Real reviews cut to many lengths, rows of one token among them, in batches of many sizes."""
    for size, length in ((1, 1), (1, 2), (2, 3), (7, 4), (3, 5), (64, 50), (16, 401), (4, MAX_TOKENS)):
        ids = [row[: max(1, length * (place + 1) // size)] for place, row in enumerate(test.ids[-size:])]
        yield {"tokens": pad(ids)}


def _served(graph: Path, test: Corpus) -> Floats:
    """What the graph says of the reviews, float32 `[n, 2]`."""
    session = export.session(graph)
    probabilities = np.empty((len(test.ids), 2), np.float32)
    for rows in by_length(test.ids):
        (probabilities[rows],) = session.run(None, {"tokens": padded(test.ids, rows).numpy()})
    return probabilities


def _chosen(tokens: Tensor, share: float) -> Tensor:
    """True for a random share of the places."""
    return torch.rand(tokens.shape, device=tokens.device) < share


def _states(layer: nn.LSTM | nn.GRU, inputs: Tensor) -> Tensor:
    """The layer's output at each place, `[batch, length, hidden]`."""
    if torch.compiler.is_exporting():
        return _onnx_states(layer, inputs)
    states: Tensor = layer(inputs)[0]
    return states


def _onnx_states(layer: nn.LSTM | nn.GRU, inputs: Tensor) -> Tensor:
    """The same by ONNX's own operator: torch 2.13 takes minutes to trace an LSTM and fails at a GRU."""
    # Torch has the gates input, forget, cell, output, or reset, update, new; ONNX input, output, forget, cell, or
    # update, reset, new.
    order = (0, 3, 1, 2) if isinstance(layer, nn.LSTM) else (1, 0, 2)
    gates = [weight.reshape(len(order), layer.hidden_size, -1)[torch.tensor(order)] for weight in layer.parameters()]
    inner, outer = (weight.flatten(0, 1)[None] for weight in gates[:2])
    biases = torch.cat([bias.flatten()[None] for bias in gates[2:]], dim=1)
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
    if isinstance(layer, nn.GRU):
        attributes["linear_before_reset"] = 1
    states = torch.onnx.ops.symbolic(
        layer.mode,
        (inputs.transpose(0, 1), inner, outer, biases),
        attributes,
        dtype=torch.float32,
        shape=(inputs.shape[1], 1, inputs.shape[0], layer.hidden_size),
        version=export.OPSET,
    )
    return states[:, 0].transpose(0, 1)
