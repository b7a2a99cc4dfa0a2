"""Word vectors from co-occurrence counts, from which the word embeddings start."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from service.tasks.sentiment import UNKNOWN

Floats = npt.NDArray[np.float32]
Counts = sp.csr_matrix
Ids = Sequence[int] | npt.NDArray[np.int64]


def word_vectors(reviews: Sequence[Ids], vocabulary: int, width: int, seed: int, window: int = 5) -> Floats:
    """Factorise the positive pointwise mutual information of words within `window`, weighted by inverse distance.

    Levy and Goldberg, Neural Word Embedding as Implicit Matrix Factorization, 2014. No labels are needed.

    Returns:
        float32 `[vocabulary, width]`; zero for padding, the unknown word and words that do not occur.
    """
    information = _mutual_information(_neighbours(reviews, vocabulary, window))
    left, sizes, _ = randomized_svd(information, width, n_iter=3, random_state=seed)
    vectors = left * np.sqrt(sizes) * (np.diff(information.indptr) > 0)[:, None]
    # Scaled like trained embeddings; the vectors of the most common words are shortened.
    vectors *= 0.25 / vectors.std()
    longest = 0.5 * width**0.5
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: Floats = (vectors * (longest / np.maximum(lengths, longest))).astype(np.float32)
    return shortened


def _neighbours(reviews: Sequence[Ids], vocabulary: int, window: int) -> Counts:
    """Return the co-occurrence counts of words within `window`, weighted by inverse distance."""
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
    """Return the positive pointwise mutual information; context counts to the power of 3/4, against rare contexts."""
    together = neighbours.tocoo()
    row, column = together.coords
    words = np.bincount(row, together.data, neighbours.shape[0])
    contexts = np.bincount(column, together.data, neighbours.shape[0]) ** 0.75
    information = np.log(together.data / (words[row] * contexts[column] / contexts.sum()))
    kept = (information > 0) & (row > UNKNOWN) & (column > UNKNOWN)
    return sp.csr_matrix((information[kept].astype(np.float32), (row[kept], column[kept])), shape=neighbours.shape)
