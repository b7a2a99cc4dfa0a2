"""Reads handwritten digits with a multi-layer perceptron: version 1 of `digits`, what the CNN is measured against.

    python -m training digits-mlp                 # ten minutes on one core
    python -m training digits-mlp --smoke         # the whole way on little data

The classic 784-512-10 of a first course on neural networks, with dropout on the picture and the hidden layer and
pictures shifted by up to two pixels (Simard et al., Best Practices for Convolutional Neural Networks, 2003).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.registry.card import Figure
from training import datasets, digits_figures, digits_int8, evaluate, export
from training.datasets import MNIST, Pictures
from training.loop import one_cycle, shift
from training.run import Precision, Run


@dataclass(frozen=True)
class Hyperparameters:
    """Chosen on 5,000 pictures cut from the training split."""

    epochs: int = 40
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.25
    hidden: int = 512
    shift: int = 1
    held_out: int = 5000
    precision: Precision = "float32"


SMOKE = {"epochs": 1, "held_out": 1000}


class Perceptron(nn.Module):
    """Pictures, uint8 `[batch, 28, 28]`, to probabilities, float32 `[batch, 10]`."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout / 2),
            nn.Linear(28 * 28, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )
        self.temperature = nn.Buffer(torch.ones(()))

    def logits(self, pictures: Tensor) -> Tensor:
        """Before temperature and softmax."""
        logits: Tensor = self.layers(pictures.to(torch.float32) / 255)
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        return F.softmax(self.logits(pictures) / self.temperature, dim=1)


def train(h: Hyperparameters, run: Run) -> None:
    """Trains, exports and measures the perceptron; writes `run.out`."""
    everything, test = datasets.pictures(MNIST, run.data_dir)
    if run.smoke:
        everything = everything[:4000]
    training, validation = everything.split(h.held_out, run.seed)
    network = fit(training, validation, h, run)
    network.temperature.fill_(evaluate.fit_temperature(logits_of(network, validation), validation.labels))
    write(network, training, test, h, run)


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Perceptron:
    """AdamW with a one-cycle learning rate; the loss is cross entropy with a little label smoothing."""
    network = Perceptron(h.hidden, h.dropout).to(run.device)
    optimizer = torch.optim.AdamW(network.parameters(), h.lr, weight_decay=h.weight_decay)

    def loss(pictures: Tensor, labels: Tensor, _: float) -> Tensor:
        with run.autocast(h.precision):
            logits = network.logits(shift(pictures, h.shift))
        return F.cross_entropy(logits.float(), labels, label_smoothing=0.05)

    def accuracy(network: Perceptron) -> float:
        return float((logits_of(network, validation).argmax(1) == validation.labels).mean())

    return one_cycle(network, optimizer, training, loss, accuracy, run, epochs=h.epochs, batch_size=h.batch_size)


@torch.inference_mode()
def logits_of(network: Perceptron, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Logits in evaluation mode, float32 `[n, 10]`."""
    device = network.temperature.device
    return network.eval().logits(torch.from_numpy(pictures.pictures).to(device)).float().cpu().numpy()


def write(network: Perceptron, training: Pictures, test: Pictures, h: Hyperparameters, run: Run) -> None:
    """Exports, proves, and measures on the test split: the only time that it is looked at."""
    directory = export.start(run.out)
    graph = digits_figures.write_graph(network, directory, test)
    digits_int8.write_perceptron(network.layers, network.temperature, directory)
    digits_figures.plot(graph, test, run.history)
    digits_figures.write_card(
        directory,
        title="Digits, multi-layer perceptron",
        training_pictures=training,
        test=test,
        drawn=test[:100] if run.smoke else test,
        figures={
            "weights": Figure(value=sum(p.numel() for p in network.parameters()), how="trained parameters"),
        },
        splits={
            "training": f"{60_000 - h.held_out:,} of the 60,000 training pictures",
            "validation": f"the other {h.held_out:,}, drawn with seed {run.seed}: temperature",
            "test": "the 10,000 test pictures, for the figures alone",
        },
        training=run.finish(h),
        intended_use="The baseline of a course on neural networks, for comparison with version 2.",
        limits=(),
    )
