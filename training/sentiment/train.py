"""Classify film reviews by sentiment: a recurrent network and, beside it, a linear model on words and bigrams.

    python -m training train sentiment            # seven minutes on one core
    python -m training train sentiment --cell gru
    python -m training train sentiment --smoke    # the whole way on little data

Both parts are fitted twice: first on part of the reviews, so that the held-out rest weighs and calibrates them, then on
all. Reviews of one film are never on both sides of the split, and no text of the test split is used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from service.tasks.sentiment import ReviewReader
from training.data.imdb import load_reviews
from training.run import Precision, Run, restore_generators
from training.sentiment.linear import count, fit_linear
from training.sentiment.model import Architecture, Linear, Recurrent, Sentiment
from training.sentiment.publish import publish
from training.sentiment.tokens import Corpus, Rows, bucketed, by_length, make_tokenizer, padded
from training.sentiment.vectors import word_vectors

Floats = npt.NDArray[np.float32]

MODEL = "sentiment"


class Hyperparameters(Architecture):
    """Chosen on about 2,500 reviews cut from the training split, films kept together."""

    epochs: PositiveInt = 2
    batch_size: PositiveInt = 32
    lr: PositiveFloat = 1e-3
    embedding_lr: PositiveFloat = 5e-4
    """Lower: embeddings start from co-occurrence vectors, and few reviews contain a rare word."""
    max_length: int = Field(400, ge=4)
    """Tokens of a review in training, the last ones; the graph takes any number."""
    max_grad_norm: PositiveFloat = 1.0
    linear_strength: PositiveFloat = 0.3
    linear_iterations: PositiveInt = 40
    held_out: int = Field(2500, ge=50, le=12_000)
    precision: Precision = "bfloat16"


SMOKE = {
    "epochs": 3,
    "max_length": 100,
    "vocabulary": 2000,
    "buckets": 2**12,
    "word_width": 16,
    "bigram_width": 16,
    "channels": 16,
    "hidden": 16,
    "lr": 5e-3,
    "embedding_lr": 5e-3,
    "linear_buckets": 2**14,
    "linear_iterations": 10,
    "held_out": 200,
}
SMOKE_EVERY, SMOKE_TEST_EVERY = 12, 50
"""One review of so many is used."""


def train(h: Hyperparameters, run: Run) -> None:
    """Train, export and measure the classifier; write the version `run.out`."""
    published, test = load_reviews(run.data_dir)
    reviews = published.without(test)
    if run.smoke:
        reviews = reviews[np.arange(0, len(reviews), SMOKE_EVERY)]
        test = test[np.arange(0, len(test), SMOKE_TEST_EVERY)]
    run.begin(h, reviews.texts, reviews.labels)
    reader = ReviewReader(make_tokenizer(reviews.texts, h.vocabulary))
    part, rest = (Corpus.of(half, reader) for half in reviews.split(h.held_out, run.seed))
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
    publish(network, reader, part, rest, Corpus.of(test, reader), h, run)


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
    """Minimise the cross entropy by Adam with a linearly falling learning rate; embeddings are updated sparsely.

    Args:
        network: freshly initialised.
        vectors: initial word embeddings, float32 `[vocabulary, word_width]`.
        corpus: to train on.
        h: hyperparameters.
        run: keeps the log and the checkpoints.
        validation: measured after each epoch.
        blend: kept in the checkpoint.
        state: the checkpoint to continue from.
    """
    network.words.weight.data.copy_(vectors)
    network.to(run.device)
    tables = [network.words.weight, network.bigrams.weight]
    others = [p for p in network.parameters() if all(p is not table for table in tables)]
    optimizers = {"sparse": torch.optim.SparseAdam(tables, h.embedding_lr), "dense": torch.optim.Adam(others, h.lr)}
    done = 0
    if state is not None:
        done = state["epoch"]
        network.load_state_dict(state["network"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state[name])
        restore_generators(state)  # again: initialising the network has advanced them
    steps = -(-len(corpus.ids) // h.batch_size)
    for epoch in range(done + 1, h.epochs + 1):
        network.train()
        losses, hits = [], []
        batches = bucketed([min(len(ids), h.max_length) for ids in corpus.ids], h.batch_size)
        for step, rows in enumerate(run.progress(batches, f"epoch {epoch}", steps), (epoch - 1) * steps):
            labels = torch.from_numpy(corpus.labels[rows]).to(run.device)
            with run.autocast(h.precision):
                logits = network(padded(corpus.ids, rows, h.max_length).to(run.device))
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
            lr_factor = min(1, (step + 1) / 100) * max(0.02, 1 - step / (steps * h.epochs))
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * lr_factor
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(others, h.max_grad_norm)
            for optimizer in optimizers.values():
                optimizer.step()
            losses.append(loss.item())
            hits.append(((logits > 0) == (labels > 0)).float().mean().item())
        figures = {"loss": float(np.mean(losses)), "training_accuracy": float(np.mean(hits))}
        if validation is not None:
            held_out_logits = logits_of(network, validation.ids)
            figures["validation_accuracy"] = float(((held_out_logits > 0) == validation.labels).mean())
            figures["validation_auc"] = float(roc_auc_score(validation.labels, held_out_logits))
        run.log(epoch, **figures)
        states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
        run.save(epoch, blend=blend, network=network.state_dict(), **states)
    return network


def linear(corpus: Corpus, h: Hyperparameters) -> Linear:
    """Fit the linear part to the reviews."""
    batches = (padded(corpus.ids, range(i, min(i + 64, len(corpus.ids)))) for i in range(0, len(corpus.ids), 64))
    counts = count(batches, h.vocabulary, h.linear_buckets)
    return Linear(fit_linear(counts, corpus.labels, h.linear_strength, h.linear_iterations), h)


@torch.inference_mode()
def logits_of(network: Recurrent | Linear, ids: Sequence[list[int]]) -> Floats:
    """Return log-odds in evaluation mode at each review's full length, float32 `[n]`."""
    network.eval()
    device = next(network.buffers(), next(network.parameters(), torch.empty(0))).device
    logits = np.empty(len(ids), np.float32)
    for rows in by_length(ids):
        logits[rows] = network(padded(ids, rows).to(device)).float().cpu().numpy()
    return logits


def fit_blend(recurrent: Floats, linear: Floats, labels: Rows) -> list[float]:
    """Return the weights of both log-odds and the offset that minimise the log loss of held-out labels."""
    signs = 2 * labels - 1

    def loss(blend: npt.NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -signs * (blend[0] * recurrent + blend[1] * linear + blend[2])).mean())

    return [float(value) for value in minimize(loss, (0.5, 0.5, 0.0)).x]
