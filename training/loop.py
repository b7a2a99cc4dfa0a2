"""How networks that name pictures are trained: one cycle of the learning rate, a moving average, shifted pictures."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.images import Pictures
from training.run import Run

N = TypeVar("N", bound=nn.Module)


def one_cycle(
    network: N,
    optimizer: torch.optim.Optimizer,
    training: Pictures,
    loss: Callable[[Tensor, Tensor, float], Tensor],
    accuracy: Callable[[N], float],
    run: Run,
    *,
    epochs: int,
    batch_size: int,
    rise: float = 0.3,
    averaging: float | None = None,
) -> N:
    """Trains while the learning rate rises to the optimizer's and falls to nothing, the batches drawn anew each epoch.

    Goes on where `run` was interrupted.

    Args:
        network: on the device of `run`.
        optimizer: of its parameters.
        training: a remainder below `batch_size` is left out of each epoch.
        loss: of pictures, uint8 `[batch, 28, 28]`, and their labels, int64 `[batch]`; the number is the share of all
            steps that are done.
        accuracy: share of held-out pictures that are named rightly, for the log.
        run: keeps the log and the checkpoints.
        epochs: of the whole training.
        batch_size: pictures of a step.
        rise: share of the steps in which the learning rate rises.
        averaging: share of the average that each step keeps, as of `follow`; None for no average.

    Returns:
        The moving average of the network; without one, the network.
    """
    average = network if averaging is None else copy.deepcopy(network)
    steps = len(training) // batch_size
    highest = optimizer.defaults["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps * epochs, pct_start=rise)
    parts: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    first = 1
    if (state := run.restore()) is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["epoch"] + 1
    pictures, labels = (torch.from_numpy(a).to(run.device) for a in (training.pictures, training.labels))
    for epoch in range(first, epochs + 1):
        network.train()
        losses = []
        order = torch.randperm(len(training))[: steps * batch_size].view(steps, batch_size)
        batches = run.progress(order.to(run.device), f"epoch {epoch}", steps)
        for step, rows in enumerate(batches, (epoch - 1) * steps):
            of_batch = loss(pictures[rows], labels[rows], step / (epochs * steps))
            optimizer.zero_grad()
            of_batch.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if averaging is not None:
                follow(average, network, averaging, step)
            losses.append(of_batch.detach())
        run.log(epoch, loss=float(torch.stack(losses).mean()), validation_accuracy=accuracy(average))
        run.save(epoch, **{name: part.state_dict() for name, part in parts.items()})
    return average


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
