"""Tells malignant masses from benign ones with a perceptron of eight hidden units, on all 961 rows of the UCI data.

    python -m training mammogram                 # under a minute on one core
    python -m training mammogram --smoke         # the whole way in a few steps

So few rows leave none to spare for a test split. The figures come from stratified 10-fold cross-validation, repeated
ten times with the folds drawn anew: every row is judged ten times by a network that has not learned from it. These 100
networks and the one that is served, which learns from all rows, are trained side by side in one pass.

Missing values are information, and rows that have them are kept: of shape, margin and density, "not known" is a level
of its own; an unknown age counts as the typical one and is flagged. Few rows lack more than one measurement, though
the server takes any that has one, so in every step some rows have measurements hidden from them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.registry.card import Figure
from service.tasks.mammogram import LEVELS, OLDEST
from training import datasets, export, mammogram_figures
from training.datasets import Labels, Masses
from training.run import Precision, Run

Floats = npt.NDArray[np.float32]

CODES = tuple(len(names) for names in LEVELS.values())
"""How many levels shape, margin and density have; their codes count from 1."""
FEATURES = 2 + sum(codes + 1 for codes in CODES) + (CODES[0] + 1) * (CODES[1] + 1)
TYPICAL_AGE, SPREAD_OF_AGES = 55.5, 14.5


@dataclass(frozen=True)
class Hyperparameters:
    """Chosen by cross-validation on other folds than those that give the figures, drawn with seed 1000."""

    epochs: int = 150
    batch_size: int = 961
    lr: float = 0.05
    hidden: int = 8
    l2: float = 6.0
    """Precision of the normal prior of each weight. It settles calibration too: no temperature is needed."""
    hide: float = 0.05
    """Share of the rows of a step from which each measurement is hidden at even odds."""
    folds: int = 10
    repeats: int = 10
    precision: Precision = "float32"


SMOKE = {"epochs": 30, "repeats": 1}


class Perceptrons(nn.Module):
    """Independent perceptrons side by side: the hidden units of all are one wide layer."""

    def __init__(self, count: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(count, hidden, FEATURES) / math.sqrt(FEATURES))
        self.inner_bias = nn.Parameter(torch.zeros(count, hidden))
        self.outer = nn.Parameter(torch.randn(count, hidden) / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(count))

    def log_odds(self, masses: Tensor) -> Tensor:
        """Of malignancy, float32 `[batch, count]`, for masses as `encode` takes them."""
        units = F.linear(encode(masses), self.inner.flatten(0, 1), self.inner_bias.flatten())
        units = torch.tanh(units).view(-1, *self.outer.shape)
        return torch.sum(units * self.outer, 2) + self.outer_bias

    def forward(self, masses: Tensor) -> Tensor:
        """Probabilities of the first perceptron, float32 `[batch, 2]`: benign, malignant."""
        log_odds = self.log_odds(masses)[:, 0]
        return torch.stack((torch.sigmoid(-log_odds), torch.sigmoid(log_odds)), dim=1)

    def penalty(self) -> Tensor:
        """Half the sum of squared weights; biases are free."""
        return (self.inner.square().sum() + self.outer.square().sum()) / 2

    def pick(self, index: int) -> "Perceptrons":
        """A copy of one of them."""
        alone = Perceptrons(1, self.outer.shape[1])
        alone.load_state_dict({name: value[index].unsqueeze(0) for name, value in self.state_dict().items()})
        return alone


def encode(masses: Tensor) -> Tensor:
    """What the hidden units see: age, scaled; and as one-hot columns shape, margin, density, and shape with margin.

    Shape and margin together: what an ill-defined margin means depends on the shape.

    Args:
        masses: float32 `[batch, 4]`: age, shape, margin, density. Whatever is not an age from 0 to 120 or one of the
            column's codes is not known: NaN, infinities, 2.5, 7.

    Returns:
        float32 `[batch, FEATURES]`.
    """
    age = masses[:, :1]
    known = (age >= 0) & (age <= OLDEST)
    scaled = torch.where(known, (age - TYPICAL_AGE) / SPREAD_OF_AGES, torch.zeros_like(age))
    shape, margin, density = (_one_hot(masses[:, i : i + 1], codes) for i, codes in enumerate(CODES, 1))
    together = (shape.unsqueeze(2) * margin.unsqueeze(1)).flatten(1)
    return torch.cat((scaled, (~known).to(age.dtype), shape, margin, density, together), dim=1)


def _one_hot(column: Tensor, codes: int) -> Tensor:
    """A column for each code, and a last one for everything else: not known."""
    levels = (column == torch.arange(1, codes + 1, device=column.device)).to(column.dtype)
    return torch.cat((levels, 1 - levels.sum(1, keepdim=True)), dim=1)


def train(h: Hyperparameters, run: Run) -> None:
    """Trains, exports and measures the perceptron; writes `run.out`."""
    data = datasets.masses(run.data_dir)
    parts = draw_parts(data.severity, h.folds, h.repeats, run.seed)
    networks = fit(data, parts, h, run)
    log_odds = held_out(networks, data, parts)
    directory = write(networks.pick(0), data, run)
    mammogram_figures.plot(directory, log_odds, data.severity, run.history)
    mammogram_figures.write_card(directory, log_odds, data, h.folds, run.finish(h))


def draw_parts(severity: Labels, folds: int, repeats: int, seed: int) -> Labels:
    """The fold that each row belongs to, int64 `[repeats, n]`: equal folds with equal shares of each severity."""
    generator = np.random.default_rng(seed)
    parts = np.empty((repeats, len(severity)), np.int64)
    for part in parts:
        by_severity = np.lexsort((generator.random(len(severity)), severity))
        part[by_severity] = np.arange(len(severity)) % folds
    return parts


def fit(data: Masses, parts: Labels, h: Hyperparameters, run: Run) -> Perceptrons:
    """A perceptron taught by all rows, then one for each fold of each repeat, taught by all rows but that fold's."""
    left_out = parts.T[:, :, None] == np.arange(h.folds)
    taught = torch.from_numpy(np.pad(~left_out.reshape(len(data.severity), -1), ((0, 0), (1, 0)), constant_values=True))
    taught = taught.to(run.device)
    masses, severity = (torch.from_numpy(a).to(run.device) for a in (data.masses, data.severity))
    truth = severity[:, None].float().expand(taught.shape)
    networks = Perceptrons(taught.shape[1], h.hidden).to(run.device)
    optimizer = torch.optim.Adam(networks.parameters(), h.lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, h.epochs)
    first = 1
    if (state := run.restore()) is not None:
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"] + 1
    for epoch in run.progress(range(first, h.epochs + 1), "epochs"):
        for rows in _batches(len(masses), h.batch_size):
            with run.autocast(h.precision):
                log_odds = networks.log_odds(hide(masses[rows], h.hide))
            losses = F.binary_cross_entropy_with_logits(log_odds.float(), truth[rows], reduction="none")
            # A sum over the networks, so that each learns as if it were alone.
            loss = (losses * taught[rows]).sum() / len(rows) + networks.penalty() * h.l2 / len(masses)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        if epoch % 10 == 0 or epoch == h.epochs:
            _log(networks, masses, truth, taught, epoch, run)
            run.save(
                epoch,
                networks=networks.state_dict(),
                optimizer=optimizer.state_dict(),
                schedule=schedule.state_dict(),
            )
    return networks.cpu()


def _batches(rows: int, size: int) -> Iterator[Tensor]:
    order = torch.randperm(rows)
    return (order[start : start + size] for start in range(0, rows, size))


def hide(masses: Tensor, share: float) -> Tensor:
    """The masses, of a random `share` of which each measurement is made unknown at even odds."""
    chosen = torch.rand(len(masses), 1, device=masses.device) < share
    return masses.masked_fill(chosen & (torch.rand_like(masses) < 0.5), torch.nan)


@torch.no_grad()
def _log(networks: Perceptrons, masses: Tensor, truth: Tensor, taught: Tensor, epoch: int, run: Run) -> None:
    """Loss on the rows that were learned from, and loss and accuracy on the held-out ones."""
    log_odds = networks.log_odds(masses)
    losses = F.binary_cross_entropy_with_logits(log_odds, truth, reduction="none")
    right = (log_odds > 0) == (truth > 0)
    run.log(
        epoch,
        loss=losses[taught].mean().item(),
        held_out_loss=losses[~taught].mean().item(),
        held_out_accuracy=right[~taught].float().mean().item(),
    )


@torch.inference_mode()
def held_out(networks: Perceptrons, data: Masses, parts: Labels) -> Floats:
    """Log-odds of each row from the networks that have not learned from it, one a repeat: float32 `[n, repeats]`."""
    repeats, rows = parts.shape
    log_odds = networks.log_odds(torch.from_numpy(data.masses))[:, 1:].numpy().reshape(rows, repeats, -1)
    return np.take_along_axis(log_odds, parts.T[:, :, None], axis=2)[:, :, 0]


def cross_validate(h: Hyperparameters | None = None, seed: int = 0, data_dir: Path | None = None) -> dict[str, Figure]:
    """The figures of the card, measured again from the data: by default those of the served version."""
    h = h or Hyperparameters()
    data = datasets.masses(data_dir)
    parts = draw_parts(data.severity, h.folds, h.repeats, seed)
    with TemporaryDirectory() as scratch:
        networks = fit(data, parts, h, Run("mammogram", Path(scratch) / "1", seed=seed))
    return mammogram_figures.measure(held_out(networks, data, parts), data.severity, h.folds)


def write(network: Perceptrons, data: Masses, run: Run) -> Path:
    """Exports and proves the network; the model directory, complete but for plots and card."""
    directory = export.start(run.out)
    graph = export.write_graph(
        network, directory, {"masses": data.masses[:2]}, ("probabilities",), {"masses": {0: "batch"}}
    )
    odd = odd_masses()
    batches = [*(data.masses[:size] for size in (1, 2, 7, 64, 961)), odd, *odd[:, None]]
    export.check_parity(network, graph, ({"masses": batch} for batch in batches))
    unknown = np.isnan(data.masses)
    lacking = [np.flatnonzero(column)[:5] for column in unknown.T]
    golden = np.unique(np.concatenate([*lacking, np.flatnonzero(~unknown.any(1))[:16]]))
    export.write_golden(network, directory, {"masses": data.masses[golden]}, ("probabilities",))
    return directory


def odd_masses() -> Floats:
    """Rows at the edge of sense, float32 `[n, 4]`: one measurement known, none known, values that are none."""
    only_one = [[value if i == j else np.nan for i in range(4)] for j, value in enumerate((55, 4, 5, 3))]
    strange = [[bad if i == j else 1 for i in range(4)] for j in range(4) for bad in (2.5, -1, 130, np.inf, -np.inf)]
    return np.array([*only_one, [np.nan] * 4, *strange], np.float32)
