"""The networks of `digits`, in training and folded for inference."""

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from training.data.images import Pictures

SIZE = 28


class Convolutional(nn.Module):
    """Five convolutions: images, uint8 `[batch, 28, 28]`, to probabilities, float32 `[batch, 10]`."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, 16),
            nn.MaxPool2d(2),
            *_convolution(16, 40),
            *_convolution(40, 72, stride=2),
            *_convolution(72, 80),
            nn.MaxPool2d(2),
            *_convolution(80, 160, padding=0),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(160, 10),
        )
        self.temperature = nn.Buffer(torch.ones(()))

    def logits(self, pictures: Tensor) -> Tensor:
        """Return logits before temperature; `pictures` is uint8 or, augmented, float32 of the same range."""
        scaled = pictures.to(torch.float32)[:, None] / 255
        logits: Tensor = self.layers(scaled)
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        return F.softmax(self.logits(pictures) / self.temperature, dim=1)


def _convolution(inputs: int, outputs: int, stride: int = 1, padding: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Perceptron(nn.Module):
    """Two dense layers: images, uint8 `[batch, 28, 28]`, to probabilities, float32 `[batch, 10]`."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout / 2),
            nn.Linear(SIZE * SIZE, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )
        self.temperature = nn.Buffer(torch.ones(()))

    def logits(self, pictures: Tensor) -> Tensor:
        """Return logits before temperature."""
        logits: Tensor = self.layers(pictures.to(torch.float32) / 255)
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        return F.softmax(self.logits(pictures) / self.temperature, dim=1)


Network = Convolutional | Perceptron


@torch.inference_mode()
def logits_of(network: Network, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Return logits in evaluation mode, float32 `[n, 10]`."""
    device = network.temperature.device
    network.eval()
    batches = (torch.from_numpy(pictures.pictures[at : at + 1000]) for at in range(0, len(pictures), 1000))
    return torch.cat([network.logits(batch.to(device)).float().cpu() for batch in batches]).numpy()


def fold(network: Convolutional) -> Convolutional:
    """Return a copy on CPU in evaluation mode, each batch norm folded into the convolution before it."""
    folded = copy.deepcopy(network).cpu().eval()
    folded.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    layers: list[nn.Module] = []
    for layer in folded.layers:
        if isinstance(layer, nn.BatchNorm2d) and isinstance(convolution := layers.pop(), nn.Conv2d):
            layers.append(fuse_conv_bn_eval(convolution, layer))
        else:
            layers.append(layer)
    folded.layers = nn.Sequential(*layers)
    return folded


def multiply_adds(network: nn.Module) -> int:
    """Return how many multiply-adds one image costs."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.cpu().eval()(torch.zeros(1, SIZE, SIZE, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2
