"""What counting words teaches before any network is trained: word vectors from the company that words keep, and a
linear model on words and bigrams.

Both have closed or convex objectives, take about a minute each and are no worse than the network alone: the vectors
spare it learning from 25,000 labels that "dreadful" is like "awful", the linear model stands beside it in the graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from service.tasks.sentiment import PADDING, UNKNOWN

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Counts = sp.csr_matrix

MULTIPLIER = 1_000_003


def bigrams(tokens: Tensor, buckets: int) -> Tensor:
    """For each token the bucket of the pair that it makes with the next one.

    Args:
        tokens: ids, int64 `[batch, length]`, padded on the right with 0.

    Returns:
        int64 `[batch, length]`, 1 to `buckets` - 1; 0 where no token follows.
    """
    following = F.pad(tokens[:, 1:], (0, 1))
    pairs = 1 + (tokens * MULTIPLIER + following) % (buckets - 1)
    return torch.where(following == PADDING, 0, pairs)


def distinct(tokens: Tensor, vocabulary: int, buckets: int) -> tuple[Tensor, Tensor]:
    """The words and bigrams that occur in each review, each marked once however often it stands there.

    Sorting brings equal ones together; it is the cheapest way to count them once that a graph can express.

    Returns:
        Features, int64 `[batch, 2 * length]`: words as they are, bigrams behind them, from `vocabulary` on; and
        whether each is the first of its kind in its review, bool of the same shape, never true of padding.
    """
    pairs = bigrams(tokens, buckets)
    features = torch.cat([tokens, torch.where(pairs == PADDING, PADDING, pairs + vocabulary)], dim=1).sort(1).values
    before = F.pad(features[:, :-1], (1, 0))  # padding sorts to the front and equals this one too
    return features, features != before


def count(batches: Iterable[Tensor], vocabulary: int, buckets: int) -> Counts:
    """Which features occur in which review: 0 and 1, float32 `[reviews, vocabulary + buckets]`."""
    columns, per_review = [], []
    for tokens in batches:
        features, fresh = distinct(tokens, vocabulary, buckets)
        columns.append(features[fresh].numpy())
        per_review.append(fresh.sum(1).numpy())
    ends = np.concatenate([[0], np.cumsum(np.concatenate(per_review))])
    indices = np.concatenate(columns)
    return sp.csr_matrix(
        (np.ones(len(indices), np.float32), indices, ends), shape=(len(ends) - 1, vocabulary + buckets)
    )


@dataclass(frozen=True)
class LinearModel:
    """Log-odds that a review is positive: `bias` and the `weights` of the features that occur in it."""

    weights: Floats
    bias: float

    def logits(self, counts: Counts) -> Floats:
        """Float32 `[reviews]`."""
        return (counts @ self.weights + np.float32(self.bias)).astype(np.float32)


def fit_linear(counts: Counts, labels: Labels, strength: float, iterations: int) -> LinearModel:
    """Logistic regression on features scaled by how much they lean to one side (NB-SVM: Wang and Manning, Baselines and
    Bigrams, 2012), so that regularisation holds back those that tell nothing.

    Args:
        strength: of the data against the regularisation, C as libraries call it.
    """
    lean = _log_count_ratio(counts, labels)
    scaled = (counts @ sp.diags(lean)).tocsr()
    transposed = scaled.T.tocsr()
    signs = (2 * labels - 1).astype(np.float32)

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = parameters[:-1].astype(np.float32)
        margins = signs * (scaled @ weights + np.float32(parameters[-1]))
        slopes = -strength * signs / (1 + np.exp(margins))
        value = strength * np.logaddexp(0, -margins).sum() + 0.5 * weights @ weights
        return float(value), np.append(transposed @ slopes + weights, slopes.sum()).astype(np.float64)

    start = np.zeros(counts.shape[1] + 1)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 6}).x
    return LinearModel((best[:-1] * lean).astype(np.float32), float(best[-1]))


def _log_count_ratio(counts: Counts, labels: Labels) -> Floats:
    """Log of how much likelier a feature is in positive reviews than in negative ones; 0 if it occurs in none."""
    positive, negative = (np.asarray(counts[labels == label].sum(0)).ravel() for label in (1, 0))
    ratio = np.log((positive + 1) / (positive + 1).sum()) - np.log((negative + 1) / (negative + 1).sum())
    return np.where(positive + negative > 0, ratio, 0).astype(np.float32)


def word_vectors(reviews: Sequence[Sequence[int]], vocabulary: int, width: int, seed: int, window: int = 5) -> Floats:
    """Vectors of words by the words around them: the positive pointwise mutual information of words within `window`,
    nearer ones counting more, factorised (Levy and Goldberg, Neural Word Embedding as Implicit Matrix Factorization,
    2014). They need no labels.

    Returns:
        float32 `[vocabulary, width]`; zero for padding, the unknown word and words that never occur.
    """
    information = _mutual_information(_neighbours(reviews, vocabulary, window))
    left, sizes = _factorise(information, width, seed)
    vectors = left * np.sqrt(sizes) * (np.diff(information.indptr) > 0)[:, None]
    # At the scale that embeddings are trained at, without the few giants that the most common words would be.
    vectors *= 0.25 / vectors.std()
    longest = 0.5 * width**0.5
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: Floats = (vectors * (longest / np.maximum(lengths, longest))).astype(np.float32)
    return shortened


def _neighbours(reviews: Sequence[Sequence[int]], vocabulary: int, window: int) -> Counts:
    """How often two words stand within `window` of each other, by the inverse of their distance."""
    lengths = [len(ids) for ids in reviews]
    tokens = np.concatenate([np.asarray(ids, np.int64) for ids in reviews])
    review = np.repeat(np.arange(len(reviews)), lengths)
    one_way: list[Counts] = []
    for distance in range(1, window + 1):
        same = review[distance:] == review[:-distance]
        pair = (tokens[:-distance][same], tokens[distance:][same])
        weights = np.full(int(same.sum()), 1 / distance, np.float32)
        one_way.append(sp.csr_matrix((weights, pair), shape=(vocabulary, vocabulary)))
    total: Counts = sum(one_way[1:], one_way[0])
    return sp.csr_matrix(total + total.T)


def _mutual_information(neighbours: Counts) -> Counts:
    """Positive pointwise mutual information; contexts to the power of 3/4, which keeps rare ones from ruling."""
    together = neighbours.tocoo()
    row, column = together.coords
    words = np.bincount(row, together.data, neighbours.shape[0])
    contexts = np.bincount(column, together.data, neighbours.shape[0]) ** 0.75
    information = np.log(together.data / (words[row] * contexts[column] / contexts.sum()))
    kept = (information > 0) & (row > UNKNOWN) & (column > UNKNOWN)
    return sp.csr_matrix((information[kept].astype(np.float32), (row[kept], column[kept])), shape=neighbours.shape)


def _factorise(matrix: Counts, rank: int, seed: int) -> tuple[Floats, Floats]:
    """The `rank` largest singular values and their left vectors, by random projection (Halko, Martinsson and Tropp,
    Finding Structure with Randomness, 2011).
    """
    generator = np.random.default_rng(seed)
    basis = generator.standard_normal((matrix.shape[1], rank + 10), dtype=np.float32)
    for _ in range(3):
        basis = np.linalg.qr(matrix @ (matrix.T @ basis)).Q
    left, sizes, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    return (basis @ left)[:, :rank], sizes[:rank]
