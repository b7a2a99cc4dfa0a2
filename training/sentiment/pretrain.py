"""Pre-train the recurrent part without labels: each direction foretells the words that come next.

A state has read the four places of its step and all before; convolution and bigrams reach two words further. It
foretells the bag of eight words after those, as in Johnson and Zhang's two-view embeddings (arXiv:1602.02373). Common
words are left out at random, as in word2vec, and the softmax is over sampled words, the same ones for a whole batch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from service.predictors.sentiment import PADDING, UNKNOWN
from training.run import Precision, Run
from training.sentiment.model import POOLED, Architecture, Recurrent, Table
from training.sentiment.stages import Stage, minimise
from training.sentiment.tokens import bucketed, padded
from training.sentiment.vectors import word_vectors

REACH = 2
"""Words past the places of a step that its state has seen."""
AHEAD = 8
"""Words that are foretold."""
RARE = 1e-4
"""Words more common than this are foretold less often."""
LIGHT_DROPOUT = {"word_dropout": 0.05, "bigram_dropout": 0.2, "vector_dropout": 0.1}
"""Three times as many reviews are harder to learn by heart."""


class Pretraining(Architecture):
    """How the language model is trained, and what fine-tuning has in common with it."""

    pretraining_epochs: PositiveInt = 1
    pretraining_lr: PositiveFloat = 3e-3
    pretraining_embedding_lr: PositiveFloat = 2e-3
    sampled_words: PositiveInt = 512
    """Words in the denominator of the softmax."""
    batch_size: PositiveInt = 32
    max_length: int = Field(400, ge=4)
    """Tokens of a review in training, the last ones; the graph takes any number."""
    max_grad_norm: PositiveFloat = 1.0
    precision: Precision = "bfloat16"


class NextWords(nn.Module):
    """The loss of foretelling neighbouring words from the states of both directions."""

    kept: Tensor
    noise: Tensor

    def __init__(self, hidden: int, counts: Tensor, sampled: int) -> None:
        """Initialise at random.

        Args:
            hidden: units of each direction.
            counts: how often each word occurs, float32 `[words]`.
            sampled: number of words in the denominator of the softmax.
        """
        super().__init__()
        self.sampled = sampled
        self.project = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.words = Table(len(counts), hidden)
        share = counts / counts.sum()
        kept = (RARE / share.clamp(min=1e-12)).sqrt().clamp(max=1)
        kept[[PADDING, UNKNOWN]] = 0
        self.kept = nn.Buffer(kept)
        self.noise = nn.Buffer(share * kept / (share * kept).sum())

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of a foretold word.

        Args:
            states: of `Recurrent.states`.
            words: ids without negation, int64 `[batch, length]`.
        """
        sampled = torch.multinomial(self.noise, self.sampled, replacement=True)
        log_noise = torch.log(self.noise * self.sampled + 1e-30)
        steps = states.shape[1]
        margin = REACH + AHEAD
        around = F.pad(words, (margin, steps * POOLED - words.shape[1] + margin))  # place p is column p + margin
        losses = []
        for project, seen, first in zip(self.project, states.chunk(2, 2), (margin + POOLED + REACH, 1), strict=True):
            targets = around[:, first:].unfold(1, AHEAD, POOLED)[:, :steps]  # [batch, steps, AHEAD]
            chosen = torch.rand(targets.shape, device=targets.device) < self.kept[targets]
            used = chosen.any(2)
            context = project(seen[used])
            step, place = chosen[used].nonzero(as_tuple=True)
            target = targets[used][step, place]
            denominator = (context @ self.words(sampled).T - log_noise[sampled]).float().logsumexp(1)
            score = (context[step] * self.words(target)).sum(1).float() - log_noise[target]
            losses.append(torch.logaddexp(score, denominator[step]) - score)
        return torch.cat(losses).mean()


def pretrain(network: Recurrent, reviews: Sequence[list[int]], h: Pretraining, run: Run) -> None:
    """Initialise the words with co-occurrence vectors, then train both directions to foretell words.

    Args:
        network: freshly initialised; changed in place.
        reviews: token ids.
        h: hyperparameters.
        run: keeps the log and the checkpoints.
    """
    plain = network.plain.cpu().numpy()
    rows = [plain[ids] for ids in reviews]
    vocabulary = network.words.num_embeddings
    if run.restore() is None:
        network.words.weight.data.copy_(torch.from_numpy(word_vectors(rows, vocabulary, h.word_width, run.seed)))
    counts = np.bincount(np.concatenate(rows), minlength=vocabulary)
    next_words = NextWords(h.hidden, torch.from_numpy(counts), h.sampled_words)
    finetuning, network.h = network.h, h.model_copy(update=LIGHT_DROPOUT)

    def batches(epoch: int) -> Iterator[Tensor]:
        torch.manual_seed(run.seed + epoch)
        lengths = [min(len(ids), h.max_length) for ids in reviews]
        return (padded(reviews, rows, h.max_length).to(run.device) for rows in bucketed(lengths, h.batch_size))

    def loss(tokens: Tensor) -> Tensor:
        with run.autocast(h.precision):
            states, _ = network.states(network.vectors(tokens), tokens)
            value: Tensor = next_words(states, network.plain[tokens])
        return value

    steps = -(-len(reviews) // h.batch_size)
    stage = Stage(
        "language model", h.pretraining_epochs, steps, h.pretraining_lr, h.pretraining_embedding_lr, h.max_grad_norm
    )
    minimise(stage, nn.ModuleList([network, next_words]).to(run.device), batches, loss, run)
    network.h = finetuning
