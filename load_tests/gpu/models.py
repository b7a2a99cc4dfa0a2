"""What is measured: each served graph, its inputs at any number of rows, and the network in torch that it came from.

Inputs are the golden cases over and over, so that no data set is needed; reviews are random words of a fixed length.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.registry.card import GRAPHS, Card
from service.tensors import Tensors
from training.digits import model as digits_network
from training.fashion import model as fashion_network
from training.mammogram import model as mammogram
from training.sentiment import model as sentiment_network
from training.sentiment.linear import LinearModel

MODELS = Path(__file__).parent.parent.parent / "models"
LENGTH = 200
"""Tokens of a review; half of IMDB's have 230 or fewer words."""


@dataclass(frozen=True)
class Model:
    """A version of a model."""

    name: str
    """As in `digits/2`."""
    directory: Path
    card: Card
    network: Callable[[], nn.Module]
    """The network in torch in evaluation mode, of the same size; its weights are drawn, and cost as much."""

    @property
    def graph(self) -> Path:
        """The one in float32, which GPUs run."""
        return self.directory / GRAPHS["float32"]

    def inputs(self, rows: int) -> Tensors:
        """Valid ones, so many rows of them."""
        if any(spec.name == "tokens" for spec in self.card.inputs):
            return {"tokens": np.random.default_rng(0).integers(1, 30_000, (rows, LENGTH))}
        with np.load(self.directory / "golden.npz") as golden:
            cases = {spec.name: golden[f"in:{spec.name}"] for spec in self.card.inputs}
        return {name: np.resize(values, (rows, *values.shape[1:])) for name, values in cases.items()}


def models(names: list[str] | None = None) -> list[Model]:
    """Every version in models/, or those with these names.

    Raises:
        SystemExit: there is none of such a name.
    """
    found = {}
    for path in sorted(MODELS.glob("*/*/card.json")):
        card = Card.read(path.parent)
        name = f"{card.name}/{card.version}"
        found[name] = Model(name, path.parent, card, _network(card.name, card.training.hyperparameters))
    if unknown := sorted(set(names or ()) - found.keys()):
        raise SystemExit(f"there is no model {', '.join(unknown)}; there are {', '.join(found)}")
    return [model for name, model in found.items() if names is None or name in names]


def _network(name: str, made_with: Mapping[str, Any]) -> Callable[[], nn.Module]:
    makers: dict[str, Callable[[], nn.Module]] = {
        "digits": lambda: _digits(made_with),
        "fashion": lambda: fashion_network.Generator(made_with["width"]),
        "mammogram": lambda: mammogram.Perceptron(made_with["hidden"]),
        "sentiment": lambda: _sentiment(made_with),
    }
    return lambda: makers[name]().eval()


def _digits(made_with: Mapping[str, Any]) -> nn.Module:
    if "hidden" in made_with:
        return digits_network.Perceptron(made_with["hidden"], made_with["dropout"])
    return digits_network.fold(digits_network.Convolutional(made_with["dropout"]))


def _sentiment(made_with: Mapping[str, Any]) -> nn.Module:
    sizes = sentiment_network.Architecture.model_fields
    h = sentiment_network.Architecture(**{name: made_with[name] for name in sizes if name in made_with})
    wide = LinearModel(np.zeros(h.vocabulary + h.linear_buckets, np.float32), 0.0)
    recurrent = sentiment_network.Recurrent(h, np.arange(h.vocabulary))
    blend = sentiment_network.Blend((1, 1, 0), (0, 0, 0))
    network = sentiment_network.Sentiment(recurrent, sentiment_network.Linear(wide, h), blend)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def on_torch(inputs: Tensors, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The inputs, copied to the device."""
    return tuple(torch.from_numpy(values).to(device, non_blocking=True) for values in inputs.values())
