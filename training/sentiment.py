"""Tells whether a film reviewer liked the film: a recurrent network and, beside it, a linear model on bigrams.

    python -m training sentiment                  # seven minutes on one core
    python -m training sentiment --cell gru
    python -m training sentiment --smoke          # the whole way on little data

Wide and deep (Cheng et al., 2016). Both parts are fitted twice: on part of the reviews, so that the others show how to
weigh and calibrate them, and then on all. Reviews of one film never stand on both sides of that cut, and no text of the
test split is trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from service.registry.card import Figure
from service.tasks.sentiment import MAX_TOKENS, ReviewReader, pad
from training import datasets, evaluate, export, sentiment_figures, sentiment_graph
from training.run import Precision, Run
from training.sentiment_corpus import Corpus, Rows, bucketed, by_length, make_tokenizer, padded
from training.sentiment_counts import count, fit_linear, word_vectors
from training.sentiment_network import Architecture, Linear, Recurrent, Sentiment

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hyperparameters(Architecture):
    """Chosen on about 2,500 reviews cut from the training split, films kept together."""

    epochs: int = 2
    batch_size: int = 32
    lr: float = 1e-3
    table_lr: float = 5e-4
    """Of the vectors: they start from what counting taught, and few reviews know a rare word."""
    max_length: int = 400
    """Tokens of a review that training looks at, the last ones; the graph takes any number."""
    clip: float = 1.0
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
    recurrent = fit(Recurrent(h), vectors, part + rest, h, run, blend=blend, state=state).cpu()
    recurrent.words.compress()
    recurrent.bigrams.compress()
    network = Sentiment(recurrent, linear(part + rest, h), blend)
    write(network, reader, Corpus.of(test, reader), len(rest.ids), h, run)


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
        torch.set_rng_state(state["random_state"].cpu())  # once more: the network has drawn its first weights since
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
    graph = sentiment_graph.write(network, directory, "float32")
    export.check_parity(network, graph, _batches_of_many_shapes(test))
    order = np.argsort([len(ids) for ids in test.ids], kind="stable")
    golden = padded(test.ids, order[np.linspace(0, len(order) - 1, 24).astype(int)]).numpy()
    export.write_golden(network, directory, {"tokens": golden}, ("probabilities", "log_odds"))
    sentiment_graph.write(network, directory, "int8")
    sentiment_figures.plot(graph, test, run.history)
    weights = {
        "weight_recurrent": Figure(value=network.blend[0], how="of its log-odds, by the validation reviews"),
        "weight_linear": Figure(value=network.blend[1], how="of its log-odds, by the validation reviews"),
    }
    sentiment_figures.write_card(directory, h.cell, h.vocabulary, held_out, test, weights, run.finish(h))


def _batches_of_many_shapes(test: Corpus) -> Iterator[dict[str, Rows]]:
    """Real reviews cut to many lengths, rows of one token among them, in batches of many sizes."""
    for size, length in ((1, 1), (1, 2), (2, 3), (7, 4), (3, 5), (64, 50), (16, 401), (4, MAX_TOKENS)):
        ids = [row[: max(1, length * (place + 1) // size)] for place, row in enumerate(test.ids[-size:])]
        yield {"tokens": pad(ids)}
