"""The generator as it is served: the same pictures from fewer passes over its maps.

Normalisation becomes one scale and one shift for each class and channel, all of them looked up at once; the first maps
come out channels first; and the last convolution runs before the pixel shuffle in place of after it, each pixel of the
quarter-sized map answering for the four that it becomes.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.fashion.model import ClassNorm, Generator

SIZE = 14
"""Of the maps, in pixels; pictures are twice as wide and high."""


class Folded(nn.Module):
    """What `Generator` computes, on CPU and in evaluation mode: the same inputs, the same pictures."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        (scale, shift), *middle, last = (_affine(cast("ClassNorm", norm)) for norm in generator.norms)
        self.channels = scale.shape[1]
        self.start = nn.Buffer(_channels_first(generator.start.weight.T, self.channels).flatten(1).T.contiguous())
        of_class = _channels_first(generator.start_of_class, self.channels)
        self.start_of_class = nn.Buffer((of_class * scale[..., None] + shift[..., None]).flatten(1))
        shuffled = [table.repeat_interleave(4, 1) for table in last]
        tables = [scale, *(table for norm in middle for table in norm), *shuffled]
        self.tables = nn.Buffer(torch.cat(tables, 1))
        self.widths = [table.shape[1] for table in tables]
        self.convolutions = generator.convolutions
        self.last = nn.Buffer(_before_shuffle(generator.last.weight[0]))
        assert generator.last.bias is not None
        self.last_bias = nn.Buffer(generator.last.bias.repeat(4))

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        scale, *others = torch.split(F.embedding(label, self.tables)[:, :, None, None], self.widths, 1)
        shape = (-1, self.channels, SIZE, SIZE)
        of_class = F.embedding(label, self.start_of_class).view(shape)
        maps = F.relu(F.linear(latent, self.start).view(shape) * scale + of_class)
        for convolution, scale, shift in zip(self.convolutions, others[::2], others[1::2], strict=True):
            maps = F.relu(convolution(maps) * scale + shift)
        quarters = F.conv2d(maps, self.last, self.last_bias, padding=1).sigmoid()
        return (F.pixel_shuffle(quarters, 2)[:, 0] * 255).round().to(torch.uint8)


def fold(generator: Generator) -> Folded:
    """The generator for inference, on CPU."""
    with torch.no_grad():
        return Folded(generator.cpu().eval()).eval()


def _affine(norm: ClassNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of each class and channel, `[classes, channels]` each."""
    mean, variance = norm.norm.running_mean, norm.norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.scale / torch.sqrt(variance + norm.norm.eps)
    return scale.detach(), (norm.shift - mean * scale).detach()


def _channels_first(rows: Tensor, channels: int) -> Tensor:
    """Maps that lie channels last in each row, `[n, 14 * 14 * channels]`, as `[n, channels, 14 * 14]`."""
    return rows.detach().reshape(len(rows), -1, channels).transpose(1, 2)


def _before_shuffle(weight: Tensor) -> Tensor:
    """A kernel for shuffled maps, `[channels, 3, 3]`, as four for maps before it, `[4, 4 * channels, 3, 3]`."""
    kernels = torch.zeros(2, 2, len(weight), 2, 2, 3, 3)
    for row in range(4):
        for column in range(4):
            for down in range(max(0, row - 2), min(2, row + 1)):
                for right in range(max(0, column - 2), min(2, column + 1)):
                    # Pixel (down, right) of a cell sees the pixel at (row - 1, column - 1) from the cell's first one.
                    source, place = divmod(row - 1, 2), divmod(column - 1, 2)
                    kernels[down, right, :, source[1], place[1], 1 + source[0], 1 + place[0]] = weight[
                        :, row - down, column - right
                    ]
    return kernels.reshape(4, -1, 3, 3)
