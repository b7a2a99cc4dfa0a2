"""The convolutional network of `digits`: as it is trained, as it is served, and what a picture costs it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE = 28


class Convolutional(nn.Module):
    """Pictures, uint8 `[batch, 28, 28]`, to probabilities, float32 `[batch, 10]`."""

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
        """Before temperature and softmax; `pictures` is uint8 or, augmented, float32 of the same range."""
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


def fold(network: Convolutional) -> Convolutional:
    """The same network on CPU for inference, each batch norm folded into the convolution before it."""
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


def multiply_adds(network: Convolutional) -> int:
    """Multiplications, each with its addition, that one picture costs in convolutions and dense layers."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        total += output[0].numel() * layer.weight[0].numel()

    counted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in counted]
    with torch.inference_mode():
        network(torch.zeros(1, SIZE, SIZE, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return total
