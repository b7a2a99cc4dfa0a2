"""Augmentation of digits: affine and elastic deformation and stroke width, drawn anew for each image of a batch.

Simard et al., Best Practices for Convolutional Neural Networks, 2003.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from training.digits.model import SIZE
from training.run import Hyperparameters


class Augmentation(Hyperparameters):
    """How far images are varied, either way."""

    rotation_degrees: NonNegativeFloat = 12.0
    scale: NonNegativeFloat = 0.12
    """Of width and height independently, in log scale."""
    shear: NonNegativeFloat = 0.2
    shift_pixels: NonNegativeFloat = 2.0
    elastic_std: NonNegativeFloat = 0.8
    """Standard deviation of the elastic displacement, in pixels, at the knots of a 6x6 grid."""
    stroke_jitter: NonNegativeFloat = 0.5
    """Fraction of the way to a stroke that is one pixel wider, or narrower, on each side."""


def augment(pictures: Tensor, h: Augmentation, strength: float = 1.0) -> Tensor:
    """Vary each image's geometry and stroke width: uint8 `[n, 28, 28]` to float32 of the same range.

    `strength` scales all variations; 0 changes nothing.
    """
    images = pictures[:, None].to(torch.float32)
    field = _affine(pictures, h, strength) + _elastic(pictures, h.elastic_std * strength)
    warped = F.grid_sample(images, field, align_corners=False)
    jitter = h.stroke_jitter * strength * _uniform(pictures, 1, 1, 1)
    wider, narrower = F.max_pool2d(warped, 3, 1, 1), -F.max_pool2d(-warped, 3, 1, 1)
    return (warped + jitter.clamp(min=0) * (wider - warped) - jitter.clamp(max=0) * (narrower - warped))[:, 0]


def _affine(pictures: Tensor, h: Augmentation, strength: float) -> Tensor:
    """Return sampling positions of random rotations, scales, shears and shifts, `[n, 28, 28, 2]` in -1 to 1."""
    angle = torch.deg2rad(h.rotation_degrees * strength * _uniform(pictures))
    scale_x, scale_y = (torch.exp(h.scale * strength * _uniform(pictures)) for _ in range(2))
    shear = h.shear * strength * _uniform(pictures)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    linear = torch.stack(
        [
            scale_x * cosine,
            scale_x * (shear * cosine - sine),
            scale_y * sine,
            scale_y * (shear * sine + cosine),
        ],
        dim=1,
    ).view(-1, 2, 2)
    shift = h.shift_pixels * strength / (SIZE / 2) * _uniform(pictures, 2, 1)
    return F.affine_grid(torch.cat([linear, shift], dim=2), [len(pictures), 1, SIZE, SIZE], align_corners=False)


def _elastic(pictures: Tensor, std: float) -> Tensor:
    """Return a smooth random displacement, `[n, 28, 28, 2]`: normal at 6x6 knots, bicubic between them."""
    knots = torch.randn(len(pictures), 2, 6, 6, device=pictures.device) * (std / (SIZE / 2))
    return F.interpolate(knots, size=(SIZE, SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _uniform(pictures: Tensor, *shape: int) -> Tensor:
    """Return numbers between -1 and 1, `[n, *shape]`."""
    return 2 * torch.rand(len(pictures), *shape, device=pictures.device) - 1
