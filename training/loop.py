"""The training loop of image classifiers: one-cycle learning rate, exponential moving average, checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from training.data.images import Pictures
from training.run import Run

N = TypeVar("N", bound=nn.Module)


def fit_classifier(
    network: N,
    optimizer: torch.optim.Optimizer,
    training: Pictures,
    loss: Callable[[Tensor, Tensor, float], Tensor],
    validation_accuracy: Callable[[N], float],
    run: Run,
    *,
    epochs: int,
    batch_size: int,
    warmup_fraction: float = 0.3,
    ema_decay: float = 0.0,
) -> N:
    """Train with a one-cycle learning rate (Smith and Topin, Super-Convergence, 2018) that peaks at the optimizer's.

    Args:
        network: on the device of `run`.
        optimizer: of its parameters.
        training: shuffled anew each epoch; a remainder below `batch_size` is left out.
        loss: of images, uint8 `[batch, 28, 28]`, labels, int64 `[batch]`, and the fraction of all steps done.
        validation_accuracy: of a network, logged after each epoch.
        run: keeps the log and the checkpoints; an interrupted run continues.
        epochs: of the whole training.
        batch_size: images in a step.
        warmup_fraction: fraction of the steps in which the learning rate rises.
        ema_decay: of the exponential moving average of the weights; 0 for the last weights.

    Returns:
        The averaged network.
    """
    average = averaged(network, ema_decay)
    steps = len(training) // batch_size
    peak = optimizer.defaults["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps * epochs, pct_start=warmup_fraction
    )
    parts: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    first = 1
    if (state := run.restore()) is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["epoch"] + 1
    images, labels = (torch.from_numpy(array).to(run.device) for array in (training.pictures, training.labels))
    for epoch in range(first, epochs + 1):
        network.train()
        losses = []
        order = torch.randperm(len(training))[: steps * batch_size].view(steps, batch_size)
        for step, rows in enumerate(run.progress(order.to(run.device), f"epoch {epoch}", steps), (epoch - 1) * steps):
            batch_loss = loss(images[rows], labels[rows], step / (epochs * steps))
            optimizer.zero_grad()
            batch_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            losses.append(batch_loss.detach())
        accuracy = validation_accuracy(average.module)
        run.log(epoch, loss=float(torch.stack(losses).mean()), validation_accuracy=accuracy)
        run.save(epoch, **{name: part.state_dict() for name, part in parts.items()})
    averaged_network: N = average.module
    return averaged_network


def averaged(network: nn.Module, decay: float) -> Any:
    """Return a moving average of the network's weights and buffers; the decay grows to `decay` in the first steps."""

    def update(average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        keep = min(decay, (1 + int(updates)) / (10 + int(updates)))
        for slow, fast in zip(average, current, strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - keep)
            else:
                slow.copy_(fast)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image of the batch by up to `pixels` both ways; background moves in."""
    size = images.shape[-1]
    padded = F.pad(images, (pixels,) * 4)
    start = torch.randint(0, 2 * pixels + 1, (2, len(images), 1), device=images.device)
    rows, columns = start + torch.arange(size, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]]
