"""Validation of the distributions on a card."""

import math

import pytest
from pydantic import ValidationError

from service.observability.drift import MAX_BINS
from service.registry.card import Distribution


@pytest.mark.parametrize(
    ("edges", "shares", "reason"),
    [
        ((1.0, 1.0), (0.25, 0.25, 0.25, 0.25), "edges do not ascend"),
        ((math.inf,), (0.5, 0.5, 0.0), "edges do not ascend"),
        ((1.0,), (0.5, 0.5), "1 edges and 2 shares"),
        (tuple(range(MAX_BINS)), (1.0, *[0.0] * (MAX_BINS + 1)), "shares, of at most"),
        ((1.0,), (0.5, 0.5, 0.5), "do not sum to 1"),
        ((1.0,), (1.5, -0.5, 0.0), "do not sum to 1"),
        ((1.0,), (math.nan, 1.0, 0.0), "do not sum to 1"),
    ],
)
def test_an_invalid_distribution_is_refused(edges: tuple[float, ...], shares: tuple[float, ...], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Distribution(edges=edges, shares=shares, rows=100, how="counted")
