"""The training loop that the stages of the sentiment recipe share; it continues from a checkpoint within an epoch."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from training.run import Run, restore_generators
from training.sentiment.model import Table

Batch = TypeVar("Batch")

STAGES = ("teacher", "student")
SAVED_SECONDS = 120
"""Between two checkpoints."""
WARM_UP = 100
"""Steps in which the learning rate rises."""


@dataclass(frozen=True)
class Stage:
    """What distinguishes the optimisation of one stage."""

    name: str
    """One of `STAGES`."""
    epochs: int
    steps: int
    """In an epoch."""
    lr: float
    embedding_lr: float
    max_grad_norm: float


def minimise(
    stage: Stage,
    module: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Batch], Tensor],
    run: Run,
    measure: Callable[[], dict[str, float]] = dict,
    **kept: Any,
) -> None:
    """Minimise a loss by Adam with a linearly falling learning rate; embedding tables are updated sparsely.

    A stage that the checkpoint has left behind is skipped: the later one restores the module.

    Args:
        stage: settings.
        module: all that is trained, in place.
        batches: of an epoch from 0 on, always the same ones.
        loss: of a batch.
        run: keeps the log and the checkpoints.
        measure: figures to log after an epoch.
        kept: results of earlier stages, for the checkpoint.
    """
    tables = [table.weight for table in module.modules() if isinstance(table, Table)]
    others = [p for p in module.parameters() if all(p is not table for table in tables)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam(tables, stage.embedding_lr),
        torch.optim.Adam(others, stage.lr),
    ]
    done = 0
    state = run.restore()
    if state is not None and STAGES.index(state["stage"]) > STAGES.index(stage.name):
        return
    resumed = state if state is not None and state["stage"] == stage.name else None
    if resumed is not None:
        done = resumed["step"]
        module.load_state_dict(resumed["module"])
        for optimizer, saved in zip(optimizers, resumed["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    total = stage.steps * stage.epochs
    saved_at = time.monotonic()
    for epoch in range(done // stage.steps, stage.epochs):
        module.train()
        losses = []
        progress = run.progress(batches(epoch), f"{stage.name}, epoch {epoch + 1}", stage.steps)
        for step, batch in enumerate(progress, epoch * stage.steps):
            if step < done:
                continue
            if resumed is not None and step == done:
                restore_generators(resumed)
            value = loss(batch)
            factor = min(1, (step + 1) / WARM_UP) * max(0.02, 1 - step / total)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * factor
                optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(others, stage.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
            losses.append(value.item())
            last = step + 1 == (epoch + 1) * stage.steps
            if last:
                run.log(len(run.history) + 1, loss=float(np.mean(losses)), **measure())
                module.train()
            if last or time.monotonic() - saved_at > SAVED_SECONDS:
                states = [optimizer.state_dict() for optimizer in optimizers]
                run.save(epoch, stage=stage.name, step=step + 1, module=module.state_dict(), optimizers=states, **kept)
                saved_at = time.monotonic()
