"""Classify handwritten digits with a multi-layer perceptron, the baseline of the convolutional network.

    python -m training train digits-mlp           # ten minutes on one core
    python -m training train digits-mlp --smoke   # the whole way on little data

The classic 784-512-10 of a first course on neural networks, with dropout on the image and the hidden layer and images
shifted by a pixel.
"""

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from training import metrics
from training.data.images import MNIST, Pictures, load_images
from training.digits.model import Perceptron, logits_of
from training.digits.publish import publish
from training.loop import fit_classifier, random_shift
from training.run import Hyperparameters as Base
from training.run import Precision, Run

MODEL = "digits"


class Hyperparameters(Base):
    """Chosen on 5,000 images cut from the training split."""

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-2
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.25, ge=0, lt=1)
    hidden: PositiveInt = 512
    shift_pixels: NonNegativeInt = 1
    held_out: int = Field(5000, ge=100, le=30_000)
    precision: Precision = "float32"


SMOKE = {"epochs": 2, "held_out": 1000, "batch_size": 64}
SMOKE_ROWS = 4000


def train(h: Hyperparameters, run: Run) -> None:
    """Train, export and measure the perceptron; write the version `run.out`."""
    published, test = load_images(MNIST, run.data_dir)
    if run.smoke:
        published = published[:SMOKE_ROWS]
    training, validation = published.split(h.held_out, run.seed)
    run.begin(h, training.pictures, training.labels)
    network = fit(training, validation, h, run)
    network.temperature.fill_(metrics.fit_temperature(logits_of(network, validation), validation.labels))
    publish(network.cpu(), "mlp", training, validation, test, h, run)


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Perceptron:
    """Minimise the cross entropy by AdamW with a one-cycle learning rate."""
    network = Perceptron(h.hidden, h.dropout).to(run.device)
    optimizer = torch.optim.AdamW(network.parameters(), h.lr, weight_decay=h.weight_decay)

    def loss(pictures: Tensor, labels: Tensor, _: float) -> Tensor:
        with run.autocast(h.precision):
            logits = network.logits(random_shift(pictures, h.shift_pixels))
        return F.cross_entropy(logits.float(), labels, label_smoothing=h.label_smoothing)

    def accuracy(network: Perceptron) -> float:
        return float((logits_of(network, validation).argmax(1) == validation.labels).mean())

    return fit_classifier(network, optimizer, training, loss, accuracy, run, epochs=h.epochs, batch_size=h.batch_size)
