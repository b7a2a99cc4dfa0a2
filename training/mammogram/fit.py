"""Hyperparameters and training of one mammogram network."""

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch.nn import functional as F

from training.data.mammographic import Masses
from training.mammogram.model import Perceptron, feature_dropout
from training.run import Hyperparameters as Base


class Hyperparameters(Base):
    """Chosen by cross-validation on folds drawn with seeds 1000 and up; the figures come from other folds."""

    epochs: PositiveInt = 150
    """Each is one step on all rows."""
    lr: PositiveFloat = 0.05
    hidden: PositiveInt = 8
    l2: float = Field(6.0, ge=0)
    """Precision of the normal prior of each weight."""
    feature_dropout: float = Field(0.7, ge=0, le=1)
    """Fraction of the rows of a step in which each measurement is hidden with probability 0.5."""
    folds: int = Field(10, ge=2, le=50)
    repeats: PositiveInt = 10


def fit(data: Masses, h: Hyperparameters, seed: int) -> Perceptron:
    """Minimise the cross entropy and the weights' squares by Adam with a cosine learning rate, full batch."""
    torch.set_num_threads(1)  # a step is too small to share: on a busy machine two threads take 50 times as long
    torch.manual_seed(seed)
    masses, severity = torch.from_numpy(data.masses), torch.from_numpy(data.severity).float()
    network = Perceptron(h.hidden)
    optimizer = torch.optim.Adam(network.parameters(), h.lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, h.epochs)
    for _ in range(h.epochs):
        log_odds = network.log_odds(feature_dropout(masses, h.feature_dropout))
        likelihood = F.binary_cross_entropy_with_logits(log_odds, severity)
        loss = likelihood + network.penalty() * h.l2 / len(masses)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return network.eval()
