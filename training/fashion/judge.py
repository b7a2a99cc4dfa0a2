"""Classify Fashion-MNIST with a small convolutional network that judges the generator; it is not served.

    python -m training train fashion-judge            # some minutes on one core
    python -m training train fashion-judge --smoke    # the whole way on little data

Three stages of two 3x3 convolutions with batch norm, global average pooling, a dense layer. The pooled activations
are the features in which Frechet distances are taken. Training mirrors and shifts images; the moving average of
the weights is exported.
"""

import sys
from pathlib import Path

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from service.tasks.fashion import CLASSES
from training import version
from training.data.images import FASHION_MNIST, Pictures, load_images
from training.fashion.evaluate import judge_images
from training.loop import fit_classifier, random_shift
from training.run import Hyperparameters as Base
from training.run import Precision, Run

MODEL = "fashion"


class Hyperparameters(Base):
    """Chosen on 5,000 images cut from the training split."""

    epochs: PositiveInt = 6
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 4e-3
    weight_decay: NonNegativeFloat = 2e-2
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    width: PositiveInt = 32
    shift_pixels: NonNegativeInt = 2
    ema_decay: float = Field(0.998, ge=0, lt=1)
    held_out: int = Field(5000, ge=100, le=30_000)
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 2, "held_out": 500, "width": 16, "ema_decay": 0.9, "batch_size": 64}
SMOKE_ROWS, SMOKE_TEST_ROWS = 4000, 1000


class Judge(nn.Module):
    """Images, uint8 `[batch, 28, 28]`, to probabilities `[batch, 10]` and features `[batch, 4 * width]`, float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        stages = [(1, width), (width, 2 * width), (2 * width, 4 * width)]
        self.stages = nn.Sequential(*(layer for inside, outside in stages for layer in self._stage(inside, outside)))
        self.head = nn.Linear(4 * width, len(CLASSES))

    @staticmethod
    def _stage(inside: int, outside: int) -> list[nn.Module]:
        layers: list[nn.Module] = [] if inside == 1 else [nn.MaxPool2d(2)]
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        return layers

    def features(self, pictures: Tensor) -> Tensor:
        """Return the pooled activations of the last stage."""
        scaled = pictures[:, None].to(torch.float32) / 127.5 - 1
        features: Tensor = self.stages(scaled.contiguous(memory_format=torch.channels_last)).float().mean((2, 3))
        return features

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pictures)
        return F.softmax(self.head(features), dim=1), features


def train(h: Hyperparameters, run: Run) -> None:
    """Train the judge, write its graph to the file `run.out` and print its accuracy on the test split."""
    published, test = load_images(FASHION_MNIST, run.data_dir)
    if run.smoke:
        published, test = published[:SMOKE_ROWS], test[:SMOKE_TEST_ROWS]
    training, validation = published.split(h.held_out, run.seed)
    run.begin(h, training.pictures, training.labels)
    publish(fit(training, validation, h, run), test, run.out)
    run.discard_checkpoint()
    judged, _ = judge_images(test.pictures, run.out)
    print(f"accuracy on {len(test):,} test images: {(judged == test.labels).mean():.4f}", file=sys.stderr)


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Judge:
    """Minimise the cross entropy by AdamW with a one-cycle learning rate; return the averaged network."""
    judge = Judge(h.width).to(run.device)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), h.lr, weight_decay=h.weight_decay)

    def loss(pictures: Tensor, labels: Tensor, _: float) -> Tensor:
        with run.autocast(h.precision):
            features = judge.features(random_shift(random_mirror(pictures), h.shift_pixels))
        return F.cross_entropy(judge.head(features), labels, label_smoothing=h.label_smoothing)

    return fit_classifier(
        judge,
        optimizer,
        training,
        loss,
        lambda average: accuracy(average, validation),
        run,
        epochs=h.epochs,
        batch_size=h.batch_size,
        ema_decay=h.ema_decay,
    )


def random_mirror(pictures: Tensor) -> Tensor:
    """Mirror each image of the batch left to right with probability 0.5."""
    coin = torch.rand(len(pictures), 1, 1, device=pictures.device) < 0.5
    return torch.where(coin, pictures.flip(2), pictures)


@torch.inference_mode()
def accuracy(judge: Judge, real: Pictures) -> float:
    """Return the share of real images that are classified correctly."""
    batches = torch.split(torch.from_numpy(real.pictures).to(judge.head.weight.device), 500)
    judged = torch.cat([judge.eval()(batch)[0].argmax(1) for batch in batches])
    return float((judged.cpu() == torch.from_numpy(real.labels)).float().mean())


def publish(judge: Judge, test: Pictures, path: Path) -> None:
    """Export the judge to the file `path`, replacing it once the graph is proven."""
    with version.replacing(path) as scratch:
        example = {"pictures": test.pictures[:2]}
        names = ("probabilities", "features")
        version.export_graph(judge, scratch, example, names, {"pictures": {0: "batch"}})
        version.check_parity(judge, scratch, ({"pictures": test.pictures[:size]} for size in (1, 2, 7, 64)))
