"""Reads handwritten digits with a convolutional network: version 2 of `digits`, the one that is served.

    python -m training digits                     # about 20 minutes on one busy core
    python -m training digits --resume            # go on after an interruption
    python -m training digits --smoke             # the whole way on little data

The classic net of two convolutions, pooling, dropout and a dense layer, made lighter and better: five convolutions of
which the wide ones see small maps, batch norm, and no 9216x128 head. Every picture is bent, turned, scaled and written
with another pen each time it is seen (Simard et al., Best Practices for Convolutional Neural Networks, 2003); the
learning rate rises and falls once (Smith and Topin, Super-Convergence, 2018); the weights served are a moving average.
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
from training.digits_network import SIZE, Convolutional, fold, multiply_adds
from training.loop import one_cycle
from training.run import Precision, Run


@dataclass(frozen=True)
class Hyperparameters:
    """Compared on 5,000 pictures cut from the training split; the last training keeps 2,000 for the temperature."""

    epochs: int = 13
    batch_size: int = 256
    lr: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    dropout: float = 0.3
    averaging: float = 0.995
    turn: float = 12.0
    """Degrees, either way."""
    stretch: float = 0.12
    """Of width and height apart, in log scale."""
    shear: float = 0.2
    shift: float = 2.0
    """Pixels."""
    bend: float = 0.8
    """Standard deviation of the elastic field, in pixels, at the knots of a 6x6 grid."""
    pen: float = 0.5
    """How far a stroke may go towards one that is a pixel wider, or narrower, on each side."""
    calm: float = 0.5
    """Strength of all this at the end of training, when pictures are closer to what they are; at first it is 1."""
    held_out: int = 2000
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 2, "held_out": 1000, "batch_size": 64}


def train(h: Hyperparameters, run: Run) -> None:
    """Trains, exports and measures the network; writes `run.out`."""
    everything, test = datasets.pictures(MNIST, run.data_dir)
    if run.smoke:
        everything = everything[:4000]
    training, validation = everything.split(h.held_out, run.seed)
    network = fit(training, validation, h, run)
    network.temperature.fill_(evaluate.fit_temperature(logits_of(network, validation), validation.labels))
    write(fold(network), training, test, h, run)


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Convolutional:
    """The moving average of a network's weights under SGD with Nesterov momentum and a one-cycle learning rate."""
    network = Convolutional(h.dropout).to(run.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(_decayed(network, h.weight_decay), h.lr, h.momentum, nesterov=True)

    def loss(pictures: Tensor, labels: Tensor, done: float) -> Tensor:
        augmented = augment(pictures, h, 1 - (1 - h.calm) * done)
        with run.autocast(h.precision):
            logits = network.logits(augmented)
        return F.cross_entropy(logits.float(), labels, label_smoothing=h.label_smoothing)

    def accuracy(network: Convolutional) -> float:
        return float((logits_of(network, validation).argmax(1) == validation.labels).mean())

    return one_cycle(
        network,
        optimizer,
        training,
        loss,
        accuracy,
        run,
        epochs=h.epochs,
        batch_size=h.batch_size,
        rise=0.2,
        averaging=h.averaging,
    )


def _decayed(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; biases and the scales of batch norm do not."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def augment(pictures: Tensor, h: Hyperparameters, strength: float = 1.0) -> Tensor:
    """Each picture as another hand and another pen might have drawn it: uint8 `[n, 28, 28]` to float32, 0 to 255."""
    sheets = pictures[:, None].to(torch.float32)
    field = _affine(pictures, h, strength) + _elastic(pictures, h.bend * strength)
    bent = F.grid_sample(sheets, field, align_corners=False)
    pen = h.pen * strength * _uniform(pictures, 1, 1, 1)
    wider, narrower = F.max_pool2d(bent, 3, 1, 1), -F.max_pool2d(-bent, 3, 1, 1)
    return (bent + pen.clamp(min=0) * (wider - bent) - pen.clamp(max=0) * (narrower - bent))[:, 0]


def _affine(pictures: Tensor, h: Hyperparameters, strength: float) -> Tensor:
    """Where each pixel comes from under a random rotation, stretch, shear and shift, `[n, 28, 28, 2]` in -1 to 1."""
    angle = torch.deg2rad(h.turn * strength * _uniform(pictures))
    stretch_x, stretch_y = (torch.exp(h.stretch * strength * _uniform(pictures)) for _ in range(2))
    shear = h.shear * strength * _uniform(pictures)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    linear = torch.stack(
        [
            stretch_x * cosine,
            stretch_x * (shear * cosine - sine),
            stretch_y * sine,
            stretch_y * (shear * sine + cosine),
        ],
        dim=1,
    ).view(-1, 2, 2)
    shift = h.shift * strength / (SIZE / 2) * _uniform(pictures, 2, 1)
    return F.affine_grid(torch.cat([linear, shift], dim=2), [len(pictures), 1, SIZE, SIZE], align_corners=False)


def _elastic(pictures: Tensor, bend: float) -> Tensor:
    """A smooth random displacement, `[n, 28, 28, 2]`: normal at 6x6 knots, bicubic between them."""
    knots = torch.randn(len(pictures), 2, 6, 6, device=pictures.device) * (bend / (SIZE / 2))
    return F.interpolate(knots, size=(SIZE, SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _uniform(pictures: Tensor, *shape: int) -> Tensor:
    """Numbers between -1 and 1, `[n, *shape]`."""
    return 2 * torch.rand(len(pictures), *shape, device=pictures.device) - 1


@torch.inference_mode()
def logits_of(network: Convolutional, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Logits in evaluation mode, float32 `[n, 10]`."""
    device = network.temperature.device
    network.eval()
    batches = (torch.from_numpy(pictures.pictures[at : at + 1000]) for at in range(0, len(pictures), 1000))
    return torch.cat([network.logits(batch.to(device)).cpu() for batch in batches]).numpy()


def write(network: Convolutional, training: Pictures, test: Pictures, h: Hyperparameters, run: Run) -> None:
    """Exports, proves, and measures on the test split."""
    directory = export.start(run.out)
    graph = digits_figures.write_graph(network, directory, test)
    digits_int8.write_convolutional(network.layers, network.temperature, training.pictures, directory)
    digits_figures.plot(graph, test, run.history)
    digits_figures.write_card(
        directory,
        title="Digits, convolutional network",
        training_pictures=training,
        test=test,
        drawn=test[:100] if run.smoke else test,
        figures={
            "weights": Figure(value=sum(p.numel() for p in network.parameters()), how="parameters, batch norm folded"),
            "multiply_adds": Figure(
                value=multiply_adds(network), how="one picture; the classic net needs 12.0 million"
            ),
        },
        splits={
            "training": f"{60_000 - h.held_out:,} of the 60,000 training pictures",
            "validation": f"the other {h.held_out:,}, drawn with seed {run.seed}: temperature; recipes were compared "
            "on 5,000",
            "test": "the 10,000 test pictures, for the figures",
        },
        training=run.finish(h),
        intended_use="Single handwritten digits, one to a picture: scans, drawings, photographs of paper or a board.",
        limits=("What touches a digit is taken for a part of it, unless it is a straight line through the picture.",),
    )
