"""Judges pictures of clothing: a small convolutional classifier of Fashion-MNIST, to measure `fashion`; not served.

    python -m training fashion-judge              # some minutes on one core
    python -m training fashion-judge --smoke      # the whole way on little data

Three stages of two 3x3 convolutions with batch normalisation, the mean over the picture, one dense layer; pictures are
mirrored and shifted by up to two pixels, and the weights that judge are the moving average of the trained ones (Polyak
and Juditsky, 1992). The mean over the picture is the feature vector in which Frechet distances are taken.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.tasks.fashion import CLASSES
from training import datasets, export
from training.datasets import FASHION_MNIST, Pictures
from training.fashion_figures import judgement
from training.loop import one_cycle, shift
from training.run import Precision, Run


@dataclass(frozen=True)
class Hyperparameters:
    """Chosen on 5,000 pictures cut from the training split."""

    epochs: int = 6
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 2e-2
    width: int = 32
    shift: int = 2
    average: float = 0.998
    held_out: int = 5000
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 1, "held_out": 500, "width": 16, "average": 0.9}


class Judge(nn.Module):
    """Pictures, uint8 `[batch, 28, 28]`, to probabilities `[batch, 10]` and features `[batch, 4 * width]`, float32."""

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
        """What the picture shows, before it is named."""
        scaled = pictures[:, None].to(torch.float32) / 127.5 - 1
        features: Tensor = self.stages(scaled.contiguous(memory_format=torch.channels_last)).float().mean((2, 3))
        return features

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pictures)
        return F.softmax(self.head(features), dim=1), features


def train(h: Hyperparameters, run: Run) -> None:
    """Trains the judge, writes its graph to the file `run.out` and prints its accuracy on the test split."""
    everything, test = datasets.pictures(FASHION_MNIST, run.data_dir)
    if run.smoke:
        everything, test = everything[:4000], test[:1000]
    training, validation = everything.split(h.held_out, run.seed)
    judge = fit(training, validation, h, run)
    write(judge, test, run.out)
    run.finish(h)
    named, _ = judgement(test.pictures, run.out)
    print(f"accuracy on {len(test):,} test pictures: {(named == test.labels).mean():.4f}")


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Judge:
    """AdamW with a one-cycle learning rate; returns the averaged network."""
    judge = Judge(h.width).to(run.device)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), h.lr, weight_decay=h.weight_decay)

    def loss(pictures: Tensor, labels: Tensor, _: float) -> Tensor:
        with run.autocast(h.precision):
            features = judge.features(shift(mirror(pictures), h.shift))
        return F.cross_entropy(judge.head(features), labels, label_smoothing=0.05)

    return one_cycle(
        judge,
        optimizer,
        training,
        loss,
        lambda average: accuracy(average, validation),
        run,
        epochs=h.epochs,
        batch_size=h.batch_size,
        averaging=h.average,
    )


def mirror(pictures: Tensor) -> Tensor:
    """Each picture of the batch left to right with even odds: shoes, bags and sleeves come both ways."""
    coin = torch.rand(len(pictures), 1, 1, device=pictures.device) < 0.5
    return torch.where(coin, pictures.flip(2), pictures)


@torch.inference_mode()
def accuracy(judge: Judge, real: Pictures) -> float:
    """Share of real pictures that are named rightly."""
    device = judge.head.weight.device
    batches = torch.split(torch.from_numpy(real.pictures).to(device), 500)
    named = torch.cat([judge.eval()(batch)[0].argmax(1) for batch in batches])
    return float((named.cpu() == torch.from_numpy(real.labels)).float().mean())


def write(judge: Judge, test: Pictures, path: Path) -> None:
    """Exports the judge to the one file `path`, and proves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = export.write_graph(
        judge, path.parent, {"pictures": test.pictures[:2]}, ("probabilities", "features"), {"pictures": {0: "batch"}}
    )
    written.replace(path)
    export.check_parity(judge, path, ({"pictures": test.pictures[:size]} for size in (1, 2, 7, 64)))
