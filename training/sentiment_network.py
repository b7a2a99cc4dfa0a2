"""The two parts of the sentiment model and how they become one graph.

Deep: vectors of words and of bigrams, a convolution, the strongest of every four places, a recurrent layer each way,
and the mean and maximum of what they say over time. Wide: one weight per word and bigram. Their log-odds are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.tasks.sentiment import PADDING, UNKNOWN
from training.sentiment_counts import LinearModel, bigrams, distinct

POOLED = 4
"""Places of which the strongest answer goes on."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of both parts, and what a training step leaves out of the recurrent one."""

    cell: Literal["lstm", "gru"] = "lstm"
    vocabulary: int = 30_000
    buckets: int = 2**17
    """Vectors for bigrams, which are hashed into that many."""
    word_width: int = 96
    bigram_width: int = 64
    channels: int = 128
    hidden: int = 64
    """Units of the recurrent layer, each way."""
    word_dropout: float = 0.1
    """Share of the words that are unknown to a training step."""
    bigram_dropout: float = 0.1
    vector_dropout: float = 0.3
    """Share of the vectors' components that are left out, the same ones over a whole review."""
    output_dropout: float = 0.4
    linear_buckets: int = 2**21


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

    def __init__(self, h: Architecture) -> None:
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
        tokens = F.pad(tokens, (0, -tokens.shape[1] % POOLED))
        known = tokens != PADDING
        places = self._convolve(self._vectors(tokens)).masked_fill(~known[..., None], -1e4)
        quarters = places.reshape(tokens.shape[0], -1, POOLED, self.h.channels).amax(2).relu()
        known = known[:, ::POOLED]
        lengths = known.sum(1, keepdim=True).clamp(min=1)
        position = torch.arange(quarters.shape[1], device=tokens.device)
        mirror = torch.where(position < lengths, lengths - 1 - position, position)[..., None].expand_as(quarters)
        # Reading backwards starts at each review's own end, or what a review says would depend on its neighbours.
        states = torch.cat([self.forwards(quarters)[0], self.backwards(quarters.gather(1, mirror))[0]], dim=2).float()
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

    def __init__(self, model: LinearModel, h: Architecture) -> None:
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
    """Token ids, int64 `[batch, length]`, to probabilities, float32 `[batch, 2]`: negative, positive.

    Beside them the log-odds of its parts, float32 `[batch, 2]`: recurrent, linear, as they are before they are weighed.
    """

    def __init__(self, recurrent: Recurrent, linear: Linear, blend: Sequence[float]) -> None:
        super().__init__()
        self.recurrent, self.linear = recurrent, linear
        self.blend = blend

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.where((tokens < 0) | (tokens >= self.recurrent.h.vocabulary), UNKNOWN, tokens)
        deep, wide, offset = self.blend
        parts = torch.stack([self.recurrent(tokens), self.linear(tokens)], dim=1)
        logits = deep * parts[:, 0] + wide * parts[:, 1] + offset
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1), parts


def _chosen(tokens: Tensor, share: float) -> Tensor:
    """True for a random share of the places."""
    return torch.rand(tokens.shape, device=tokens.device) < share
