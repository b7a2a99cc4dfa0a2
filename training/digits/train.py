"""Classify handwritten digits with a convolutional network.

    python -m training train digits               # about 20 minutes on one busy core
    python -m training train digits --resume      # continue after an interruption
    python -m training train digits --smoke       # the whole way on little data

Five convolutions with batch norm, the wide ones on small maps, and no large dense layer. Images are augmented with
decreasing strength (`training.digits.augment`); the learning rate rises and falls once; the exponential moving average
of the weights is served, its temperature fitted on held-out images.
"""

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training import metrics
from training.data.images import MNIST, Pictures, load_images
from training.digits.augment import Augmentation, augment
from training.digits.model import Convolutional, fold, logits_of
from training.digits.publish import publish
from training.loop import fit_classifier
from training.run import Precision, Run

MODEL = "digits"


class Hyperparameters(Augmentation):
    """Compared on 5,000 images cut from the training split; the last training keeps 2,000 for the temperature."""

    epochs: PositiveInt = 13
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.15
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    warmup_fraction: float = Field(0.2, gt=0, lt=1)
    final_augmentation_strength: float = Field(0.5, ge=0, le=1)
    """At the end of training; 1 at its start."""
    held_out: int = Field(2000, ge=100, le=30_000)
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 2, "held_out": 1000, "batch_size": 64}
SMOKE_ROWS = 4000


def train(h: Hyperparameters, run: Run) -> None:
    """Train, export and measure the network; write the version `run.out`."""
    published, test = load_images(MNIST, run.data_dir)
    if run.smoke:
        published = published[:SMOKE_ROWS]
    training, validation = published.split(h.held_out, run.seed)
    run.begin(h, training.pictures, training.labels)
    network = fit(training, validation, h, run)
    network.temperature.fill_(metrics.fit_temperature(logits_of(network, validation), validation.labels))
    publish(fold(network), "cnn", training, validation, test, h, run)


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Convolutional:
    """Minimise the cross entropy by SGD with Nesterov momentum; return the averaged network."""
    network = Convolutional(h.dropout).to(run.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(_parameter_groups(network, h.weight_decay), h.lr, h.momentum, nesterov=True)

    def loss(pictures: Tensor, labels: Tensor, progress: float) -> Tensor:
        augmented = augment(pictures, h, 1 - (1 - h.final_augmentation_strength) * progress)
        with run.autocast(h.precision):
            logits = network.logits(augmented)
        return F.cross_entropy(logits.float(), labels, label_smoothing=h.label_smoothing)

    def accuracy(network: Convolutional) -> float:
        return float((logits_of(network, validation).argmax(1) == validation.labels).mean())

    return fit_classifier(
        network,
        optimizer,
        training,
        loss,
        accuracy,
        run,
        epochs=h.epochs,
        batch_size=h.batch_size,
        warmup_fraction=h.warmup_fraction,
        ema_decay=h.ema_decay,
    )


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Apply weight decay to weights, not to biases and batch norm."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
