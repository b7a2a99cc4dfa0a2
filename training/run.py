"""One training run: where it happens, what it is called, how it is seeded, logged, checkpointed and resumed.

Everything that is not a hyperparameter and that every trainer needs in the same way.
"""

import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import onnx
import torch
from tqdm import tqdm

from service.engine.onnx.runtime import ort
from service.registry.card import Training

Precision = Literal["float32", "bfloat16"]
T = TypeVar("T")


@dataclass
class Run:
    """What one call of `python -m training NAME` is about to do."""

    name: str
    out: Path
    """The model directory, `models/<name>/<version>`."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    data_dir: Path | None = None
    resume: bool = False
    smoke: bool = False
    """Go the whole way on little data and few steps: shows that the code runs, not that the model is good."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The figures of each epoch so far, as logged."""
    elapsed: float = 0.0
    """Seconds that earlier, interrupted sessions of this run took."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Seeds every generator; on CPU the same seed then gives the same weights."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        # A tenth of the time would go into filling memory that is about to be written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    @property
    def seconds(self) -> float:
        """Time spent on this run, interrupted sessions included."""
        return self.elapsed + time.monotonic() - self.started

    def log(self, epoch: int, **figures: float) -> None:
        """Prints one line for the epoch and keeps it for the learning curve."""
        self.history.append({"epoch": epoch, **figures})
        line = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        tqdm.write(f"{self.name}  epoch {epoch:3d}  {line}  {self.seconds:.0f} s", file=sys.stderr)

    def progress(self, batches: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The batches, with a progress bar on a terminal."""
        return iter(tqdm(batches, what, total, leave=False, disable=None))

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """A context in which matrix products run in `precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)

    @property
    def _checkpoint(self) -> Path:
        return self.out.parent / f".{self.out.name}.checkpoint.pt"

    def save(self, epoch: int, **state: Any) -> None:
        """Writes the checkpoint after `epoch`: whole or not at all. `state` holds state dicts and plain values."""
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "epoch": epoch,
                "history": self.history,
                "seconds": self.seconds,
                "random_state": torch.get_rng_state(),
                **state,
            },
            partial,
        )
        partial.replace(self._checkpoint)

    def restore(self) -> dict[str, Any] | None:
        """With `--resume`, the state that `save` wrote (and `epoch`, the last finished one); None to start afresh."""
        if not (self.resume and self._checkpoint.exists()):
            return None
        state: dict[str, Any] = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.history = state["history"]
        self.elapsed = state["seconds"]
        torch.set_rng_state(state["random_state"].cpu())
        return state

    def finish(self, hyperparameters: Any) -> Training:
        """What the card says of this run; its checkpoint is no longer needed."""
        self._checkpoint.unlink(missing_ok=True)
        return Training(
            command=self._command(hyperparameters),
            hyperparameters=asdict(hyperparameters),
            seed=self.seed,
            commit=_commit(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(self.seconds, 1),
            hardware=_hardware(self.device),
            libraries={module.__name__: module.__version__ for module in (torch, np, onnx, ort)},
        )

    def _command(self, hyperparameters: Any) -> str:
        """What makes this version again, wherever its data and its directory are."""
        words = ["python -m training", self.name]
        if self.smoke:
            words.append("--smoke")
        if self.seed:
            words.append(f"--seed {self.seed}")
        chosen = {option.name: getattr(hyperparameters, option.name) for option in fields(hyperparameters)}
        defaults = {option.name: option.default for option in fields(hyperparameters)}
        words += [f"--{name.replace('_', '-')} {value}" for name, value in chosen.items() if value != defaults[name]]
        return " ".join(words)


def _commit() -> str:
    """The commit that is checked out, marked if the training code or the service differs from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + "-dirty" if _git("status", "--porcelain", "training", "service") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of {os.cpu_count()}, {_processor()}"


def _processor() -> str:
    """The processor's model name as Linux gives it, else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
