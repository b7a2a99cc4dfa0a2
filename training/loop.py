"""Pieces of a training loop that several networks share: the moving average of their weights, shifted pictures."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, averaging: float, step: int) -> None:
    """Moves the average a little towards the network, statistics of batch norm included; further in the first steps."""
    keep = min(averaging, (1 + step) / (10 + step))
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - keep)


def shift(pictures: Tensor, furthest: int) -> Tensor:
    """Each picture of the batch moved by up to `furthest` pixels both ways, background moving in."""
    size = pictures.shape[-1]
    padded = F.pad(pictures, (furthest,) * 4)
    start = torch.randint(0, 2 * furthest + 1, (2, len(pictures), 1), device=pictures.device)
    down, right = start + torch.arange(size, device=pictures.device)
    batch = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    return padded[batch, down[:, :, None], right[:, None, :]]
