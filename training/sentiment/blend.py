"""Blend both parts by length: weights fitted on held-out reviews and on texts cut from them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from service.tasks.sentiment import UNKNOWN
from training.sentiment.model import Blend, Linear, Recurrent, Sentiment
from training.sentiment.short import cut
from training.sentiment.tokens import Corpus, Rows, by_length, padded

Floats = npt.NDArray[np.float32]

LENGTHS_OF_CUTS = (1, 1, 3, 6)
"""Most sentences of the texts that are cut from each held-out review; single sentences twice."""


def fit_blend(recurrent: Recurrent, linear: Linear, held_out: Corpus, ends: frozenset[int], seed: int) -> Blend:
    """Return the blend of both parts that minimises the log loss of held-out reviews and of texts cut from them."""
    generator = np.random.default_rng(seed)
    texts = list(held_out.ids)
    for longest in LENGTHS_OF_CUTS:
        texts += [cut(ids, ends, generator, longest) for ids in held_out.ids]
    parts = np.stack([logits_of(part, texts) for part in (recurrent, linear)], 1)
    return best_blend(parts, known_tokens(texts), np.tile(held_out.labels, 1 + len(LENGTHS_OF_CUTS)))


def best_blend(parts: Floats, known: Tensor, labels: Rows) -> Blend:
    """Return the blend that minimises the log loss.

    Args:
        parts: log-odds of both parts, `[n, 2]`.
        known: numbers of known tokens, `[n]`.
        labels: 0 or 1, `[n]`.
    """
    signs = 2 * labels - 1
    columns = np.column_stack([parts, np.ones(len(parts))]).astype(np.float64)
    columns = np.column_stack([columns, columns * Blend.shortness(known).numpy()[:, None]])

    def loss(weights: npt.NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -signs * (columns @ weights)).mean())

    deep, wide, offset, *slopes = (float(weight) for weight in minimize(loss, (0.5, 0.5, 0.0, 0.0, 0.0, 0.0)).x)
    return Blend((deep, wide, offset), (slopes[0], slopes[1], slopes[2]))


def known_tokens(ids: Sequence[list[int]]) -> Tensor:
    """Return the number of known tokens of each text, int64 `[n]`."""
    return torch.tensor([len(row) - row.count(UNKNOWN) for row in ids])


@torch.inference_mode()
def logits_of(network: Recurrent | Linear, ids: Sequence[list[int]]) -> Floats:
    """Return log-odds in evaluation mode at each review's full length, float32 `[n]`."""
    network.eval()
    device = next(network.buffers()).device
    logits = np.empty(len(ids), np.float32)
    for rows in by_length(ids):
        logits[rows] = network(padded(ids, rows).to(device)).float().cpu().numpy()
    return logits


def probabilities_of(network: Sentiment, ids: Sequence[list[int]]) -> Floats:
    """Return the probability of positive in evaluation mode, float32 `[n]`."""
    parts = np.stack([logits_of(part, ids) for part in (network.recurrent, network.linear)], 1)
    logits = network.blend.logits(torch.from_numpy(parts), known_tokens(ids))
    probabilities: Floats = torch.sigmoid(logits).numpy()
    return probabilities
