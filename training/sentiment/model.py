"""The sentiment network: a recurrent part and a linear part whose log-odds are blended.

Recurrent: embeddings of words and bigrams, a convolution, max pooling over four places, a bidirectional LSTM or GRU,
and mean and maximum over time. Linear: one weight for each word and bigram. Wide and deep: Cheng et al., 2016.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from service.tasks.sentiment import PADDING, UNKNOWN
from training.run import Hyperparameters
from training.sentiment.linear import LinearModel, bigrams, distinct

POOLED = 4
"""Places that are max-pooled together."""

FULL = 128
"""Known tokens of a text that is not short."""


class Architecture(Hyperparameters):
    """Sizes of both parts, and the dropout of the recurrent one."""

    cell: Literal["lstm", "gru"] = "lstm"
    vocabulary: int = Field(30_000, ge=2)
    """Words and marks, negated words apart."""
    negated: int = Field(10_000, ge=0)
    """The words among so many most common tokens have a second id for their use in the scope of a negation."""
    buckets: int = Field(2**17, ge=16)
    """Number of bigram embeddings; bigrams are hashed into them."""
    word_width: PositiveInt = 128
    bigram_width: PositiveInt = 64
    channels: PositiveInt = 128
    hidden: PositiveInt = 96
    """Units of the recurrent layer in each direction."""
    word_dropout: float = Field(0.1, ge=0, lt=1)
    """Fraction of words replaced by the unknown word in a training step."""
    bigram_dropout: float = Field(0.1, ge=0, lt=1)
    vector_dropout: float = Field(0.3, ge=0, lt=1)
    """Fraction of embedding components dropped, the same ones over a whole review."""
    output_dropout: float = Field(0.4, ge=0, lt=1)
    linear_buckets: int = Field(2**21, ge=16)


class Table(nn.Embedding):
    """Embeddings by id, zero for id 0; `compress` rounds them to one byte a component."""

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
        """Round each column to 255 levels, irreversibly."""
        weight = self.weight.detach()
        self.scale = nn.Buffer(weight.abs().amax(0).clamp(min=1e-12) / 127)
        self.codes = nn.Buffer((weight / self.scale).round().to(torch.int8))
        self.register_parameter("weight", None)


class Recurrent(nn.Module):
    """Token ids, int64 `[batch, length]`, padded on the right with 0, to log-odds of positive, float32 `[batch]`.

    The embedding of a negated word is that of the word, mapped by one learned affine map that all words share: so
    the negation of a word that was never seen negated is understood too. `compress` computes it once for all words.
    """

    plain: Tensor

    def __init__(self, h: Architecture, plain: npt.NDArray[np.int64]) -> None:
        """Initialise at random; `plain`, int64 `[ids]`, is the id of each word without negation."""
        super().__init__()
        self.h = h
        self.plain = nn.Buffer(torch.from_numpy(plain), persistent=False)
        self.words = Table(min(h.vocabulary, len(plain)), h.word_width)
        self.negation = nn.Linear(h.word_width, h.word_width)
        nn.init.eye_(self.negation.weight)
        nn.init.zeros_(self.negation.bias)
        self.bigrams = Table(h.buckets, h.bigram_width)
        self.mix = nn.Linear(h.word_width + h.bigram_width, 3 * h.channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(h.channels))
        layer = nn.LSTM if h.cell == "lstm" else nn.GRU
        self.forwards = layer(h.channels, h.hidden, batch_first=True)
        self.backwards = layer(h.channels, h.hidden, batch_first=True)
        self.out = nn.Linear(4 * h.hidden, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        states, known = self.states(self.vectors(tokens), tokens)
        highest = states.masked_fill(~known[..., None], -1).amax(1)
        mean = (states * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        pooled = F.dropout(torch.cat([highest, mean], dim=1), self.h.output_dropout, self.training)
        logits: Tensor = self.out(pooled)
        return logits[:, 0]

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of each place's word and of the bigram that starts there: `[batch, length, width]`."""
        pairs = bigrams(tokens, self.h.buckets)
        words = tokens
        if self.training:
            words = torch.where(_chosen(tokens, self.h.word_dropout) & (tokens != PADDING), UNKNOWN, words)
            pairs = torch.where(_chosen(tokens, self.h.bigram_dropout), PADDING, pairs)
        vectors = torch.cat([self._embed(words), self.bigrams(pairs)], dim=2)
        kept = F.dropout(torch.ones_like(vectors[:, :1]), self.h.vector_dropout, self.training)
        return vectors * kept if self.training else vectors

    def states(self, vectors: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of both directions at each pooled place, and which places are not padding.

        Returns:
            float32 `[batch, places, 2 * hidden]` and bool `[batch, places]`.
        """
        vectors, tokens = (
            F.pad(vectors, (0, 0, 0, -tokens.shape[1] % POOLED)),
            F.pad(tokens, (0, -tokens.shape[1] % POOLED)),
        )
        known = tokens != PADDING
        places = self._convolve(vectors).masked_fill(~known[..., None], -1e4)
        pooled_places = places.reshape(tokens.shape[0], -1, POOLED, self.h.channels).amax(2).relu()
        known = known[:, ::POOLED]
        lengths = known.sum(1, keepdim=True).clamp(min=1)
        position = torch.arange(pooled_places.shape[1], device=tokens.device)
        mirror = torch.where(position < lengths, lengths - 1 - position, position)[..., None]
        # The backward direction starts at each review's own end; else answers would depend on the batch's padding.
        backwards = self.backwards(pooled_places.gather(1, mirror.expand_as(pooled_places)))[0]
        backwards = backwards.gather(1, mirror.expand_as(backwards))
        return torch.cat([self.forwards(pooled_places)[0], backwards], dim=2).float(), known

    def compress(self) -> None:
        """Round the embeddings to one byte a component, those of negated words computed and stored, irreversibly."""
        with torch.no_grad():
            table = Table(len(self.plain), self.h.word_width)
            weight = self._embed(torch.arange(len(self.plain)))
            table.weight.copy_(weight)
        self.words, self.plain = table, torch.arange(len(self.plain))
        self.words.compress()
        self.bigrams.compress()

    def _embed(self, words: Tensor) -> Tensor:
        plain = self.plain[words]
        vectors: Tensor = self.words(plain)
        negated = plain != words
        return torch.where(negated[..., None], self.negation(vectors), vectors) if negated.any() else vectors

    def _convolve(self, vectors: Tensor) -> Tensor:
        """Convolve over three places: one matrix product, its thirds shifted and added."""
        before, here, after = self.mix(vectors).chunk(3, dim=2)
        mixed: Tensor = F.pad(before, (0, 0, 1, 0))[:, :-1] + here + F.pad(after, (0, 0, 0, 1))[:, 1:]
        return mixed + self.bias


class Linear(nn.Module):
    """Token ids to log-odds: the sum of the weights of the distinct words and bigrams."""

    def __init__(self, model: LinearModel, h: Architecture) -> None:
        super().__init__()
        self.buckets = h.linear_buckets
        self.vocabulary = len(model.weights) - self.buckets
        self.weights = nn.Buffer(torch.from_numpy(model.weights[:, None]).half())
        self.bias = model.bias

    def forward(self, tokens: Tensor) -> Tensor:
        features, is_first = distinct(tokens, self.vocabulary, self.buckets)
        weights = F.embedding(features, self.weights)[..., 0].float()
        logits: Tensor = (weights * is_first).sum(1) + self.bias
        return logits


@dataclass(frozen=True)
class Blend:
    """How the log-odds of both parts are weighed, by length: each weight is a line in the logarithm of the length.

    A text of one sentence tells less than a review, and reviewers' sentences are less often positive than they sound.
    """

    weights: tuple[float, float, float]
    """Of the recurrent part, of the linear part, and the offset, for a text of `FULL` known tokens or more."""
    slopes: tuple[float, float, float]
    """Added to them, times `shortness`."""

    def logits(self, parts: Tensor, known: Tensor) -> Tensor:
        """Return the blended log-odds, `[n]`, of the parts' log-odds, `[n, 2]`, and the numbers of known tokens."""
        shortness = self.shortness(known)
        deep, wide, offset = (
            weight + slope * shortness for weight, slope in zip(self.weights, self.slopes, strict=True)
        )
        return deep * parts[:, 0] + wide * parts[:, 1] + offset

    @staticmethod
    def shortness(known: Tensor) -> Tensor:
        """Return the logarithm of the share of `FULL` that the number of known tokens is, 0 at most."""
        return torch.log(known.clamp(1, FULL).float() / FULL)


class Sentiment(nn.Module):
    """Token ids, int64 `[batch, length]`, to probabilities, float32 `[batch, 2]`: negative, positive.

    The second output holds the parts' own log-odds, float32 `[batch, 2]`: recurrent, linear.
    """

    def __init__(self, recurrent: Recurrent, linear: Linear, blend: Blend) -> None:
        super().__init__()
        self.recurrent, self.linear = recurrent, linear
        self.blend = blend

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.where((tokens < 0) | (tokens >= len(self.recurrent.plain)), UNKNOWN, tokens)
        parts = torch.stack([self.recurrent(tokens), self.linear(tokens)], dim=1)
        logits = self.blend.logits(parts, (tokens > UNKNOWN).sum(1))
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1), parts


def _chosen(tokens: Tensor, share: float) -> Tensor:
    """Return True for a random share of the places."""
    return torch.rand(tokens.shape, device=tokens.device) < share
