"""The real inputs of load tests: what people would send, from the test splits of the data sets, read once a program."""

from functools import cache

import numpy as np
import numpy.typing as npt

from training.data.images import MNIST, Bytes, load_images
from training.data.imdb import load_reviews
from training.data.mammographic import load_masses


@cache
def pictures() -> Bytes:
    """MNIST's test pictures, uint8 `[10000, 28, 28]`."""
    return load_images(MNIST)[1].pictures


@cache
def reviews(count: int) -> list[str]:
    """As many of IMDB's test reviews, drawn at random, the same each time: long and short ones mixed."""
    _, test = load_reviews()
    chosen = np.random.default_rng(0).choice(len(test), count, replace=False)
    return [test.texts[row] for row in chosen]


@cache
def masses() -> npt.NDArray[np.float32]:
    """Mammographic masses, float32 `[961, 4]`, NaN where a measurement was not recorded."""
    return load_masses().masses
