"""The mammogram network: a perceptron of few hidden units on one-hot features."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.tasks.mammogram import LEVELS, OLDEST

CODES = tuple(len(names) for names in LEVELS.values())
"""Number of levels of shape, margin and density; their codes count from 1."""
FEATURES = 2 + sum(codes + 1 for codes in CODES) + (CODES[0] + 1) * (CODES[1] + 1)
TYPICAL_AGE, AGE_SCALE = 55.5, 14.5


class Perceptron(nn.Module):
    """Masses, float32 `[batch, 4]`, to probabilities, float32 `[batch, 2]`: benign, malignant."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, hidden)
        self.outer = nn.Linear(hidden, 1)
        nn.init.normal_(self.inner.weight, std=1 / math.sqrt(FEATURES))
        nn.init.normal_(self.outer.weight, std=1 / math.sqrt(hidden))
        for layer in (self.inner, self.outer):
            nn.init.zeros_(layer.bias)

    def log_odds(self, masses: Tensor) -> Tensor:
        """Return the log-odds of malignancy, float32 `[batch]`."""
        logits: Tensor = self.outer(torch.tanh(self.inner(encode(masses))))
        return logits[:, 0]

    def forward(self, masses: Tensor) -> Tensor:
        log_odds = self.log_odds(masses)
        return torch.stack((torch.sigmoid(-log_odds), torch.sigmoid(log_odds)), dim=1)

    @torch.inference_mode()
    def judge(self, masses: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the log-odds of malignancy as an array, float32 `[n]`."""
        log_odds: npt.NDArray[np.float32] = self.log_odds(torch.from_numpy(masses)).numpy()
        return log_odds

    def penalty(self) -> Tensor:
        """Return half the sum of squared weights, without biases."""
        return (self.inner.weight.square().sum() + self.outer.weight.square().sum()) / 2


def feature_dropout(masses: Tensor, rate: float) -> Tensor:
    """Hide each measurement with probability 0.5 in a random fraction `rate` of the rows."""
    chosen = torch.rand(len(masses), 1, device=masses.device) < rate
    return masses.masked_fill(chosen & (torch.rand_like(masses) < 0.5), torch.nan)


def encode(masses: Tensor) -> Tensor:
    """Return the network's features: scaled age, and one-hot shape, margin, density and pairs of shape and margin.

    Args:
        masses: float32 `[batch, 4]`: age, shape, margin, density. Any value that is neither an age from 0 to 120 nor a
            code of the column counts as unknown: NaN, infinities, 2.5, 7.

    Returns:
        float32 `[batch, FEATURES]`.
    """
    age = masses[:, :1]
    known = (age >= 0) & (age <= OLDEST)
    scaled = torch.where(known, (age - TYPICAL_AGE) / AGE_SCALE, torch.zeros_like(age))
    shape, margin, density = (_one_hot(masses[:, i : i + 1], codes) for i, codes in enumerate(CODES, 1))
    pairs = (shape.unsqueeze(2) * margin.unsqueeze(1)).flatten(1)
    return torch.cat((scaled, (~known).to(age.dtype), shape, margin, density, pairs), dim=1)


def _one_hot(column: Tensor, codes: int) -> Tensor:
    """Return a column for each code and a last one for unknown values."""
    levels = (column == torch.arange(1, codes + 1, device=column.device)).to(column.dtype)
    return torch.cat((levels, 1 - levels.sum(1, keepdim=True)), dim=1)
