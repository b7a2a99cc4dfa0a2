"""Desired and observed state of the workers of one server, as files in a directory that they share.

`spec.json` is the desired state. Its generation rises with each change, which is made under `spec.lock`. Each worker
has a status file, and a lock file that it keeps locked while it lives and to which it writes its heartbeat. A worker
that lives without a recent heartbeat is stale: it is stopped, or hangs.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import msgspec
from msgspec.structs import replace

from service.registry.models_folder import ModelFiles
from service.version_policy import VersionPolicy

STALE_SECONDS = 10.0
"""Age of a heartbeat after which other workers do not wait for a worker."""

_LOCK_POLL_SECONDS = 0.01
_HEARTBEAT = struct.Struct("d")
"""Seconds of the monotonic clock, which all processes share."""

StateT = TypeVar("StateT", "Spec", "WorkerStatus")


class ModelSpec(msgspec.Struct, frozen=True):
    """The desired state of one model."""

    files: ModelFiles = ModelFiles()
    """The versions to choose from."""
    policy: VersionPolicy | None = None
    """Replaces the version policy in the settings."""
    loaded: bool = True
    """False once an administrator has unloaded the model."""
    found_at_start: bool = False
    """Whether it was found before any model had been loaded."""
    generation: int = 0
    """The generation of the `Spec` that last changed it."""


class Spec(msgspec.Struct, frozen=True):
    """The desired state of every worker."""

    generation: int = 0
    changed: float = 0.0
    """When the generation was made, in seconds of the monotonic clock."""
    models: dict[str, ModelSpec] = {}
    """By name, in alphabetical order."""
    proven: frozenset[str] = frozenset()
    """The models of which a version has been loaded by some worker since the server started."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """The observed state of a worker."""

    generation: int = 0
    """The newest generation of the `Spec` that the worker has reconciled; 0 while it starts."""
    ready: bool = False
    """Whether every model that the server needs has a loaded version."""
    unavailable: dict[str, str] = {}
    """The models that the server needs and that have no loaded version, and why."""
    loaded: frozenset[tuple[str, str, str]] = frozenset()
    """Model, number and content of each loaded version."""
    failures: dict[str, dict[str, str]] = {}
    """By model and version, why the version could not be loaded."""


Edit = Callable[[Spec], Mapping[str, ModelSpec | None]]
"""Returns the models to change and their new specs; None removes a model."""


class Workers:
    """The workers that share a directory, as seen by one of them."""

    def __init__(self, directory: Path, name: str | None = None) -> None:
        """Know the workers that share `directory`.

        Args:
            directory: of the server.
            name: of this worker; by default `worker-` and the process id.
        """
        self.name = name or f"worker-{os.getpid()}"
        self._directory = directory
        self._lock = directory / f"{self.name}.lock"
        self._descriptor = -1
        """Of the lock; -1 while it is not held."""
        self._spec = Spec()
        self._status = WorkerStatus()

    def join(self) -> None:
        """Become visible to the other workers, by a lock that has its name once it is held."""
        self.leave()
        unnamed = self._directory / f".{self.name}"
        self._descriptor = os.open(unnamed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        unnamed.rename(self._lock)

    def leave(self) -> None:
        """Stop being one of the workers."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _is_alive(self._lock)

    def spec(self) -> Spec:
        """Return the desired state: an empty one before the first change, the last known one if its file is gone."""
        self._spec = _read(self._directory / "spec.json", self._spec)
        return self._spec

    def update(self, edit: Edit) -> tuple[Spec, Spec]:
        """Change the desired state. Return it before and after.

        Args:
            edit: called while no other worker makes a change.

        Raises:
            TimeoutError: another worker has held the lock for too long.
        """
        with self._spec_lock():
            before = self.spec()
            if not (changes := edit(before)):
                return before, before
            generation = before.generation + 1
            models = {name: model for name, model in before.models.items() if name not in changes} | {
                name: replace(model, generation=generation) for name, model in changes.items() if model is not None
            }
            self._write_spec(
                Spec(generation, time.monotonic(), dict(sorted(models.items())), before.proven & models.keys())
            )
            return before, self._spec

    def record_proven(self, names: Collection[str]) -> None:
        """Record that versions of these models have been loaded. No worker has to change anything for that.

        Raises:
            TimeoutError: another worker has held the lock for too long.
        """
        with self._spec_lock():
            spec = self.spec()
            self._write_spec(replace(spec, proven=spec.proven | (spec.models.keys() & names)))

    def report(self, status: WorkerStatus) -> None:
        """Publish the status of this worker."""
        self._status = status
        self._write(self._lock.with_suffix(".json"), status)

    def beat(self) -> None:
        """Update the heartbeat of this worker. Before its first heartbeat a worker is starting, not stale."""
        if not self._lock.exists():  # somebody has removed temporary files
            self.join()
            self.report(self._status)
        os.pwrite(self._descriptor, _HEARTBEAT.pack(time.monotonic()), 0)

    def statuses(self) -> dict[str, WorkerStatus]:
        """Return the status of each worker that lives and is not stale, by name."""
        return {lock.stem: _status(lock) for lock in self._living() if not _is_stale(lock)}

    def stale(self) -> set[str]:
        """Return the names of the stale workers."""
        return {lock.stem for lock in self._living() if _is_stale(lock)}

    def loaded(self) -> frozenset[tuple[str, str]]:
        """Return model and number of each version that is loaded in some living worker, stale or not."""
        return frozenset((name, number) for lock in self._living() for name, number, _ in _status(lock).loaded)

    @contextmanager
    def _spec_lock(self) -> Iterator[None]:
        end = time.monotonic() + STALE_SECONDS
        with (self._directory / "spec.lock").open("ab") as file:
            while not _try_lock(file):
                if time.monotonic() > end:
                    raise TimeoutError(f"another worker has held {file.name} for {STALE_SECONDS:g} s")
                time.sleep(_LOCK_POLL_SECONDS)
            yield

    def _living(self) -> list[Path]:
        """Return the lock of each living worker."""
        return [lock for lock in sorted(self._directory.glob("worker-*.lock")) if _is_alive(lock)]

    def _write_spec(self, spec: Spec) -> None:
        self._write(self._directory / "spec.json", spec)
        self._spec = spec

    def _write(self, path: Path, state: Spec | WorkerStatus) -> None:
        """Replace a file in one step."""
        unnamed = self._directory / f".{self.name}.{path.name}"
        unnamed.write_bytes(msgspec.json.encode(state))
        unnamed.rename(path)


def _read(path: Path, default: StateT) -> StateT:
    """Return the state in a file; `default` if there is none."""
    with suppress(FileNotFoundError):
        return msgspec.json.decode(path.read_bytes(), type=type(default))
    return default


def _status(lock: Path) -> WorkerStatus:
    return _read(lock.with_suffix(".json"), WorkerStatus())


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(lock: Path) -> bool:
    """Return whether the worker that made `lock` lives. The files of a dead worker are removed."""
    with lock.open("ab") as file:
        if not _try_lock(file):
            return True
    lock.with_suffix(".json").unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    return False


def _is_stale(lock: Path) -> bool:
    try:
        heartbeat = lock.read_bytes()
    except FileNotFoundError:  # the worker has just ended
        return False
    return len(heartbeat) == _HEARTBEAT.size and time.monotonic() - _HEARTBEAT.unpack(heartbeat)[0] > STALE_SECONDS
