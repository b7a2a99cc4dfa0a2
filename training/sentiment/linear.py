"""The linear part of the sentiment model: NB-weighted logistic regression on words and bigrams.

Wang and Manning, Baselines and Bigrams, 2012.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from service.tasks.sentiment import PADDING

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Counts = sp.csr_matrix

MULTIPLIER = 1_000_003


def bigrams(tokens: Tensor, buckets: int) -> Tensor:
    """Return for each token the bucket of its bigram with the next token.

    Args:
        tokens: ids, int64 `[batch, length]`, padded on the right with 0.

    Returns:
        int64 `[batch, length]`, 1 to `buckets` - 1; 0 at the end of a review.
    """
    following = F.pad(tokens[:, 1:], (0, 1))
    pairs = 1 + (tokens * MULTIPLIER + following) % (buckets - 1)
    return torch.where(following == PADDING, 0, pairs)


def distinct(tokens: Tensor, vocabulary: int, buckets: int) -> tuple[Tensor, Tensor]:
    """Return the words and bigrams of each review, sorted, and which are the first of their kind.

    Sorting is the cheapest way to find duplicates that a graph can express.

    Returns:
        Features, int64 `[batch, 2 * length]`: ids of words, and of bigrams from `vocabulary` on; and whether each is
        the first of its kind in its review, bool of the same shape, false for padding.
    """
    pairs = bigrams(tokens, buckets)
    features = torch.cat([tokens, torch.where(pairs == PADDING, PADDING, pairs + vocabulary)], dim=1).sort(1).values
    before = F.pad(features[:, :-1], (1, 0))  # padding sorts to the front
    return features, features != before


def count(batches: Iterable[Tensor], vocabulary: int, buckets: int) -> Counts:
    """Return which features occur in which review: 0 and 1, float32 `[reviews, vocabulary + buckets]`."""
    columns, per_review = [], []
    for tokens in batches:
        features, is_first = distinct(tokens, vocabulary, buckets)
        columns.append(features[is_first].numpy())
        per_review.append(is_first.sum(1).numpy())
    ends = np.concatenate([[0], np.cumsum(np.concatenate(per_review))])
    indices = np.concatenate(columns)
    return sp.csr_matrix(
        (np.ones(len(indices), np.float32), indices, ends), shape=(len(ends) - 1, vocabulary + buckets)
    )


@dataclass(frozen=True)
class LinearModel:
    """Log-odds of positive: `bias` plus the `weights` of the features that occur."""

    weights: Floats
    bias: float

    def logits(self, counts: Counts) -> Floats:
        """Return log-odds, float32 `[reviews]`."""
        return (counts @ self.weights + np.float32(self.bias)).astype(np.float32)


def fit_linear(counts: Counts, labels: Labels, strength: float, iterations: int) -> LinearModel:
    """Fit logistic regression to features scaled by their log-count ratio, so that uninformative ones stay small.

    Args:
        counts: of `count`.
        labels: 0 or 1, `[reviews]`.
        strength: inverse of the regularisation, scikit-learn's C.
        iterations: of L-BFGS.
    """
    ratio = _log_count_ratio(counts, labels)
    regression = LogisticRegression(C=strength, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # early stopping is meant
        regression.fit(counts @ sp.diags(ratio), labels)
    return LinearModel((regression.coef_[0] * ratio).astype(np.float32), float(regression.intercept_[0]))


def _log_count_ratio(counts: Counts, labels: Labels) -> Floats:
    """Return the log ratio of each feature's frequency in positive and negative reviews; 0 if it occurs in none."""
    positive, negative = (np.asarray(counts[labels == label].sum(0)).ravel() for label in (1, 0))
    ratio = np.log((positive + 1) / (positive + 1).sum()) - np.log((negative + 1) / (negative + 1).sum())
    return np.where(positive + negative > 0, ratio, 0).astype(np.float32)
