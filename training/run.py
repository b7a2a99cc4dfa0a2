"""One training run: where it writes, how it is seeded, logged, checkpointed, resumed and recorded."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import onnx
import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from service.engine.onnx.runtime import ort
from service.registry.card import Step, Training
from service.tensors import Array

Precision = Literal["float32", "bfloat16"]
T = TypeVar("T")


class Hyperparameters(BaseModel):
    """Base class of the trainers' hyperparameters: each field is a command-line option with a range."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CheckpointError(Exception):
    """A checkpoint is in the way, or belongs to another run."""


@dataclass
class Run:
    """What one `python -m training train NAME` does, apart from its hyperparameters."""

    name: str
    """Of the trainer."""
    out: Path
    """The version directory, `models/<name>/<version>`."""
    models_dir: Path = Path("models")
    """The folder of the models; the ledgers of looks at test rows lie beside it."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    data_dir: Path | None = None
    resume: bool = False
    smoke: bool = False
    """Go the whole way on little data and few steps."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The logged figures of each epoch."""
    previous_seconds: float = 0.0
    """Time that interrupted sessions of this run took."""
    started: float = field(default_factory=time.monotonic)
    commit: str = field(default_factory=lambda: current_commit())
    """Of the code that runs: another one may be checked out before the run ends."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint has to agree with: trainer, seed, hyperparameters and data."""

    def begin(self, hyperparameters: Hyperparameters, *data: Array | list[str]) -> None:
        """Seed everything, and record what this run is so that no other run's checkpoint is resumed.

        Args:
            hyperparameters: of the trainer.
            data: the training rows, in order.

        Raises:
            CheckpointError: there is a checkpoint and `resume` is off, or it is another run's.
        """
        seed_everything(self.seed, self.device)
        settings = hyperparameters.model_dump(mode="json")
        self.identity = {"trainer": self.name, "seed": self.seed, "data": _digest(data), **settings}
        if self.checkpoint.exists():
            if not self.resume:
                raise CheckpointError(
                    f"{self.checkpoint} is left from an interrupted run: --resume continues it; delete it to start anew"
                )
            self._check_identity(self._load()["identity"])
        elif self.resume:
            tqdm.write(f"{self.name}: no checkpoint at {self.checkpoint}; starting from the beginning", file=sys.stderr)

    def _check_identity(self, recorded: dict[str, Any]) -> None:
        differing = [
            f"{key} is {_short(self.identity.get(key))}, in the checkpoint {_short(recorded.get(key))}"
            for key in {**recorded, **self.identity}
            if recorded.get(key) != self.identity.get(key)
        ]
        if differing:
            raise CheckpointError(f"{self.checkpoint} is of another run: {'; '.join(differing)}")

    @property
    def seconds(self) -> float:
        """Time spent on this run, interrupted sessions included."""
        return self.previous_seconds + time.monotonic() - self.started

    def log(self, epoch: int, **figures: float) -> None:
        """Print one line for the epoch and keep it for the history."""
        self.history.append({"epoch": epoch, **figures})
        line = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        tqdm.write(f"{self.name}  epoch {epoch:3d}  {line}  {self.seconds:.0f} s", file=sys.stderr)

    def progress(self, batches: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Iterate over the batches, with a progress bar on a terminal."""
        return iter(tqdm(batches, what, total, leave=False, disable=None))

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """Return a context in which matrix products run in `precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file, hidden beside the version directory."""
        return self.out.parent / f".{self.out.name}.checkpoint.pt"

    def save(self, epoch: int, **state: Any) -> None:
        """Replace the checkpoint after `epoch`, atomically. `state` holds state dicts and plain values."""
        partial = self.checkpoint.with_suffix(".partial")
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        generators = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        identity = {"epoch": epoch, "identity": self.identity, "history": self.history, "seconds": self.seconds}
        try:
            torch.save({**identity, "generators": generators, **state}, partial)
            partial.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            raise CheckpointError(f"{self.checkpoint} cannot be written: {error}".splitlines()[0]) from error
        finally:
            partial.unlink(missing_ok=True)

    def restore(self) -> dict[str, Any] | None:
        """Return the state that `save` wrote, `epoch` included, and restore the generators; None without one."""
        if not (self.resume and self.checkpoint.exists()):
            return None
        state = self._load()
        self.history, self.previous_seconds = state["history"], state["seconds"]
        restore_generators(state)
        return state

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises half a dozen classes for a damaged file
            raise CheckpointError(f"{self.checkpoint} cannot be read: {error}".splitlines()[0]) from error
        return {"identity": {}, **state}

    def discard_checkpoint(self) -> None:
        """Delete the checkpoint, once the version is in place."""
        self.checkpoint.unlink(missing_ok=True)

    def record(self, hyperparameters: Hyperparameters) -> Training:
        """Return the card's record of this run."""
        return Training(
            command=self.command(hyperparameters),
            hyperparameters=hyperparameters.model_dump(mode="json"),
            seed=self.seed,
            commit=self.commit,
            finished=now(),
            seconds=round(self.seconds, 1),
            hardware=_hardware(self.device),
            libraries={module.__name__: module.__version__ for module in (torch, np, onnx, ort)},
        )

    def command(self, hyperparameters: Hyperparameters) -> str:
        """Return the command that repeats this run, without places of this machine."""
        words = ["python -m training train", self.name]
        words += ["--smoke"] * self.smoke + [f"--seed {self.seed}"] * bool(self.seed)
        for name, field_info in type(hyperparameters).model_fields.items():
            if (value := getattr(hyperparameters, name)) != field_info.default:
                words.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
        return " ".join(words)

    def steps(self, hyperparameters: Hyperparameters, *, quantised: bool) -> tuple[Step, ...]:
        """Return the provenance of a version of which one run makes every file."""
        made = {"command": self.command(hyperparameters), "commit": self.commit, "finished": now()}
        actions: list[Literal["trained", "exported", "quantised", "measured"]] = ["trained", "exported"]
        actions += ["quantised"] * quantised
        return tuple(Step(action=action, **made) for action in [*actions, "measured"])


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch's generators, the only global ones that trainers draw from; make CPU runs deterministic."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Filling memory that is about to be written would take a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def restore_generators(state: dict[str, Any]) -> None:
    """Set torch's generators to those of a checkpoint."""
    torch.set_rng_state(state["generators"]["cpu"].cpu())
    for index, generator in enumerate(state["generators"]["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator.cpu(), index)


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def current_commit() -> str:
    """Return the commit that is checked out, marked `-dirty` if the training code or the service differs from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + "-dirty" if _git("status", "--porcelain", "training", "service") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _digest(data: Iterable[Array | list[str]]) -> str:
    """Return the sha256 of the rows."""
    found = hashlib.sha256()
    for part in data:
        found.update("\0".join(part).encode() if isinstance(part, list) else np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def _short(value: object) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of {os.cpu_count()}, {_processor()}"


def _processor() -> str:
    """Return the processor's model name as Linux gives it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
