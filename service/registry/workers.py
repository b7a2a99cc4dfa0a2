"""What the workers of one server tell each other, as files in a folder that they share.

`wanted.json` is what all of them are to serve; its generation rises with each change, and who makes one holds a lock.
Each worker has a report, of what it has done of that, and a lock that ends with it: a report without is a dead one's.
In the lock's file is the worker's pulse, the time of its last beat: one that lives without, because it is stopped or
hangs, is silent.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

SILENCE = 10.0
"""Seconds after which a worker that has not been heard of is not waited for."""

_LOOK = 0.01
"""Seconds between looks whether a lock is free."""
_PULSE = struct.Struct("d")
"""Seconds of the monotonic clock."""


class ModelSpec(msgspec.Struct, frozen=True):
    """What is to be served of one model."""

    fingerprints: Mapping[str, str]
    """The versions to choose from whose files can be read, and the fingerprint of the files of each."""
    unreadable: Mapping[str, str] = {}
    """The versions to choose from whose files cannot be read, and why."""
    generation: int = 0
    """The one that last asked for it."""
    policy: str | list[int] | None = None
    """In place of the one in the settings."""
    loaded: bool = True
    found_at_start: bool = False
    """Whether it was found before any model had served."""
    has_served: bool = False
    """Whether a version of it has been ready in some worker since the server started."""

    @property
    def numbers(self) -> list[str]:
        """The versions to choose from."""
        return [*self.fingerprints, *self.unreadable]


class Spec(msgspec.Struct, frozen=True):
    """What is to be served."""

    generation: int
    models: dict[str, ModelSpec]


Edit = Callable[[Mapping[str, ModelSpec]], Mapping[str, ModelSpec | None]]
"""Given what is wanted of each model, says which of it to change, and to what; None takes a model away."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """What a worker serves."""

    generation: int = 0
    """The last that it has seen to."""
    ready: bool = False
    """Whether every model that the server needs to be ready has a version that is."""
    unavailable: dict[str, str] = {}
    """The models that it needs and of which no version is ready, and why."""
    serves: frozenset[tuple[str, str, str]] = frozenset()
    """Model, number and content of each version that is ready."""
    failures: dict[str, str] = {}
    """By model, what went wrong when it was last asked for."""


class Workers:
    """The workers of one server, as one of them sees the others."""

    def __init__(self, folder: Path) -> None:
        """Joins the workers that share `folder`."""
        self._folder = folder
        self._wanted = folder / "wanted.json"
        self._name = f"worker-{os.getpid()}"
        self._lock = folder / f"{self._name}.lock"
        self._appear()
        self._known = Spec(0, {})

    def leave(self) -> None:
        """Is none of them any more."""
        self._pulse.close()
        _is_alive(self._lock)

    def wanted(self) -> Spec:
        """What is to be served: nothing until somebody says so, and what it was should its file be gone."""
        with suppress(FileNotFoundError):
            self._known = msgspec.json.decode(self._wanted.read_bytes(), type=Spec)
        return self._known

    def last_change(self) -> tuple[int, int] | None:
        """Other than before if what is to be served has changed since."""
        try:
            facts = self._wanted.stat()
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def change(self, edit: Edit) -> int:
        """Changes what is to be served, and says by which generation it is so.

        Args:
            edit: called while nobody else makes a change.

        Raises:
            TimeoutError: somebody else has been at it for long.
        """
        with self._change_lock():
            before = self.wanted()
            if not (changes := edit(before.models)):
                return before.generation
            after = before.generation + 1
            models = dict(before.models)
            for name, model in changes.items():
                models.pop(name, None)
                if model is not None:
                    models[name] = msgspec.structs.replace(model, generation=after)
            self._known = Spec(after, dict(sorted(models.items())))
            self._write(self._wanted, self._known)
            return after

    def remember_served(self, names: Collection[str]) -> None:
        """Record that these models have served. That is no change for any worker to make.

        Raises:
            TimeoutError: another worker has held the lock for long.
        """
        with self._change_lock():
            before = self.wanted()
            models = {
                name: msgspec.structs.replace(model, has_served=model.has_served or name in names)
                for name, model in before.models.items()
            }
            self._known = Spec(before.generation, models)
            self._write(self._wanted, self._known)

    def report(self, report: WorkerStatus) -> None:
        """Says what this worker serves."""
        self._write(self._folder / f"{self._name}.json", report)

    def reports(self) -> list[WorkerStatus]:
        """Of every living worker that is not silent, this one included."""
        return [_read(lock.with_suffix(".json")) for lock in self._living() if not _is_silent(lock)]

    def served(self) -> frozenset[tuple[str, str]]:
        """Return model and number of each version that is ready in some living worker, stale or not."""
        reports = [_read(lock.with_suffix(".json")) for lock in self._living()]
        return frozenset((name, number) for report in reports for name, number, _ in report.serves)

    def beat(self) -> None:
        """Shows that this worker is at work. It is silent if it stops to, not before it begins to."""
        if not self._lock.exists():  # somebody has tidied up
            self._pulse.close()
            self._appear()
        os.pwrite(self._pulse.fileno(), _PULSE.pack(time.monotonic()), 0)  # the same clock in all of them

    def silent(self) -> set[str]:
        """The names of the living workers that have fallen silent."""
        return {lock.stem for lock in self._living() if _is_silent(lock)}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other worker has the turn, and has it; one that keeps it for long is not waited for."""
        with (self._folder / "turn.lock").open("ab") as file:
            _lock_soon(file)
            yield

    @contextmanager
    def _change_lock(self) -> Iterator[None]:
        """Hold the lock on what is to be served."""
        with (self._folder / "change.lock").open("ab") as file:
            if not _lock_soon(file):
                raise TimeoutError(f"another worker has held {file.name} for {SILENCE:g} s")
            yield

    def _appear(self) -> None:
        """Lets the others see this worker: by a lock that has its name once it is locked."""
        unnamed = self._folder / f".{self._name}"
        self._pulse = unnamed.open("wb", buffering=0)
        fcntl.flock(self._pulse, fcntl.LOCK_EX)
        unnamed.rename(self._lock)

    def _living(self) -> list[Path]:
        """Their locks."""
        return [lock for lock in self._folder.glob("worker-*.lock") if _is_alive(lock)]

    def _write(self, path: Path, content: msgspec.Struct) -> None:
        """In one step: nobody reads half of it."""
        unnamed = self._folder / f".{self._name}.{path.name}"
        unnamed.write_bytes(msgspec.json.encode(content))
        unnamed.rename(path)


def _lock_soon(file: IO[bytes]) -> bool:
    """Waits until nobody else has it locked, and locks it; one who keeps it for long is not waited for."""
    end = time.monotonic() + SILENCE
    while not (locked := _lock(file)) and time.monotonic() < end:
        time.sleep(_LOOK)
    return locked


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else has it locked, so that it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(lock: Path) -> bool:
    """Whether the worker that made `lock` is; what a dead one left is removed."""
    with lock.open("ab") as file:
        if not _lock(file):
            return True
    lock.with_suffix(".json").unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    return False


def _is_silent(lock: Path) -> bool:
    """Whether a worker has a pulse no more; one that is still starting has none yet."""
    try:
        pulse = lock.read_bytes()
    except FileNotFoundError:  # it has just ended
        return False
    return len(pulse) == _PULSE.size and time.monotonic() - _PULSE.unpack(pulse)[0] > SILENCE


def _read(path: Path) -> WorkerStatus:
    """A worker's report; an empty one if it has not written any yet."""
    with suppress(FileNotFoundError):
        return msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
    return WorkerStatus()
