"""Content negotiation by `Accept` and `Accept-Encoding` (RFC 9110, sections 12.4 and 12.5)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
"""An element of a list separated by commas; a comma in a quoted string does not end it."""
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*)?')
_WEIGHT = re.compile(r"\d+\.?\d*|\.\d+")


@dataclass(frozen=True, slots=True)
class _Choice:
    """An element of `Accept` or `Accept-Encoding`."""

    name: str
    """In lower case."""
    parameters: Mapping[str, str]
    """Without the weight; names and values in lower case."""
    weight: float
    """0, not acceptable, to 1."""


def preferred_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """Return the offered media type that a client prefers.

    The most specific media range that matches an offer gives its weight. Of equal weights, the more specific match
    wins, then the earlier element of `accept`, then the earlier offer. A parameter that an offer does not have is
    ignored: clients add their own, such as `escaping`.

    Args:
        accept: the header; empty accepts everything.
        offered: media types, the server's preferred one first, with or without parameters.

    Returns:
        One of `offered`; None if none is acceptable.
    """
    choices = list(_choices(accept))
    if not choices:
        return offered[0]
    ranked = []
    for rank, offer in enumerate(_choices(",".join(offered))):
        matches = [
            (specificity, -place, choice.weight)
            for place, choice in enumerate(choices)
            if (specificity := _specificity(choice, offer)) is not None
        ]
        if matches:
            specificity, place, weight = max(matches)
            ranked.append((weight, specificity, place, -rank))
    best = max(ranked, default=None)
    return None if best is None or best[0] == 0 else offered[-best[-1]]


def preferred_coding(accept_encoding: str, offered: Sequence[str]) -> str | None:
    """Return the offered content coding that a client prefers to no coding.

    Args:
        accept_encoding: the header; empty asks for no coding.
        offered: content codings, the server's preferred one first.

    Returns:
        One of `offered`; None if the client prefers `identity`, or accepts it equally.
    """
    weights = {choice.name: choice.weight for choice in _choices(accept_encoding)}
    other = weights.get("*", 0.0)
    best = max(offered, key=lambda coding: weights.get(coding, other))
    return best if weights.get(best, other) > weights.get("identity", other) else None


def _choices(header: str) -> Iterator[_Choice]:
    for element in _ELEMENT.findall(header.lower()):
        name, _, rest = element.partition(";")
        if name := name.strip():
            parameters = {key: value.strip('"') for key, value in _PARAMETER.findall(f";{rest}")}
            yield _Choice(name, parameters, _weight(parameters.pop("q", "1")))


def _weight(text: str) -> float:
    """Return a weight of at most 1; 0 for text that is not a number."""
    return min(float(text), 1.0) if _WEIGHT.fullmatch(text) else 0.0


def _specificity(media_range: _Choice, offer: _Choice) -> tuple[int, int] | None:
    """Return how closely a media range matches an offer: by its name, then by parameters; None if it does not match."""
    common = media_range.parameters.keys() & offer.parameters.keys()
    if any(media_range.parameters[key] != offer.parameters[key] for key in common):
        return None
    if media_range.name == offer.name:
        return 2, len(common)
    if media_range.name == offer.name.partition("/")[0] + "/*":
        return 1, len(common)
    return (0, len(common)) if media_range.name in ("*/*", "*") else None
