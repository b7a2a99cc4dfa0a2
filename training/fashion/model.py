"""The networks of `fashion`: the generator that is served, and the discriminator that trains it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from service.tasks.fashion import CLASSES, LATENT


class ClassNorm(nn.Module):
    """Batch norm with a scale and a shift for each class, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Parameter(torch.ones(len(CLASSES), channels))
        self.shift = nn.Parameter(torch.zeros(len(CLASSES), channels))

    def forward(self, maps: Tensor, label: Tensor) -> Tensor:
        scale, shift = (table[label].to(maps.dtype)[:, :, None, None] for table in (self.scale, self.shift))
        return F.relu(torch.addcmul(shift, self.norm(maps), scale))


class Generator(nn.Module):
    """Latents, float32 `[batch, LATENT]`, and labels, int64 `[batch]`, to images, uint8 `[batch, 28, 28]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start = nn.Linear(LATENT, 14 * 14 * width // 2, bias=False)
        self.start_of_class = nn.Parameter(torch.zeros(len(CLASSES), 14 * 14 * width // 2))
        channels = (width // 2, width, width, width // 4)
        self.norms = nn.ModuleList(ClassNorm(inside) for inside in channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(inside, width, 3, padding=1, bias=False) for inside in channels[:3])
        self.last = nn.Conv2d(channels[3], 1, 3, padding=1)

    def generate(self, latent: Tensor, label: Tensor) -> Tensor:
        """Return images before rounding, float32 `[batch, 28, 28]`, 0 background to 1."""
        maps = self.start(latent) + self.start_of_class[label]
        maps = maps.unflatten(1, (14, 14, -1)).permute(0, 3, 1, 2)
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            maps = convolution(norm(maps, label))
        maps = self.norms[3](F.pixel_shuffle(maps, 2), label)
        picture: Tensor = self.last(maps)[:, 0].float().sigmoid()
        return picture

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        return (self.generate(latent, label) * 255).round().to(torch.uint8)


class Discriminator(nn.Module):
    """Images, float32 `[batch, 28, 28]` in 0 to 1, and labels to scores `[batch]`: positive for real images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: tuple[nn.Module, ...] = (
            spectral_norm(nn.Conv2d(1, width, 4, stride=2, padding=1)),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.AvgPool2d(2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.Flatten(),
            spectral_norm(nn.Linear(7 * 7 * width, 2 * width)),
        )
        self.layers = nn.ModuleList(layers)
        self.head = spectral_norm(nn.Linear(2 * width, 1))
        self.classes = spectral_norm(nn.Embedding(len(CLASSES), 2 * width))

    def forward(self, pictures: Tensor, label: Tensor) -> Tensor:
        maps = pictures[:, None] * 2 - 1
        for layer in self.layers:
            maps = layer(maps)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                maps = F.leaky_relu(maps, 0.2)
        features = maps.float()
        score: Tensor = self.head(features)[:, 0] + (self.classes(label) * features).sum(1)
        return score.float()
