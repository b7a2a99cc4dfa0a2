"""Models and their versions as a worker knows them: loaded, failed, or not to be loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from service.engine.batcher import Batcher
from service.engine.cache import CachedBatcher
from service.engine.session import Session
from service.observability.drift import DriftMonitor
from service.registry.card import Card

FILES_MISSING = "its files are missing"
"""The reason of versions and models that cannot be read."""


class State(StrEnum):
    """Whether a version serves: the states of Triton's repository index."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class FailedVersion:
    """A version that should serve and could not be loaded."""

    state: ClassVar = State.UNAVAILABLE

    name: str
    """Of the model."""
    number: str
    reason: str
    """One line without paths outside the models folder."""
    fingerprint: str | None = None
    """Of the files that failed verification; None if they could not be read."""

    @classmethod
    def missing(cls, name: str, number: str, cause: str) -> "FailedVersion":
        """Return a version whose files cannot be read because of `cause`."""
        return cls(name, number, f"{FILES_MISSING} ({cause})")

    @property
    def is_missing(self) -> bool:
        """Whether its files could not be read."""
        return self.fingerprint is None


@dataclass(eq=False)
class LoadedVersion:
    """A version that serves. Requests under way keep it until they end; its session is released with the last one."""

    state: ClassVar = State.READY

    name: str
    """Of the model."""
    number: str
    card: Card
    session: Session
    task: Any
    """The task that is bound to this version, as `bind` returned it."""
    batcher: Batcher
    """Computes outputs from inputs."""
    cached_batcher: Batcher | CachedBatcher
    """The batcher behind the model's cache; the batcher itself if the model has none."""
    drift: DriftMonitor
    fingerprint: str
    """Of the files that were loaded."""
    failure: FailedVersion | None = None
    """The version with the files that are on disk now, if it could not be loaded; it takes no requests."""

    @property
    def reason(self) -> str:
        """What is wrong with the files on disk; empty if nothing is."""
        if self.failure is None:
            return ""
        if self.failure.is_missing:
            return f"{self.failure.reason}; it serves on as it was loaded"
        return f"its files have changed and were not taken: {self.failure.reason}"


@dataclass(frozen=True)
class UnloadedVersion:
    """A version that should not serve: an administrator has unloaded it, or the version policy leaves it out."""

    state: ClassVar = State.UNAVAILABLE

    name: str
    """Of the model."""
    number: str
    reason: str = "unloaded"


Version = LoadedVersion | FailedVersion | UnloadedVersion


@dataclass(frozen=True)
class Model:
    """A model and its versions, oldest first."""

    versions: Mapping[str, Version]
    """By number; empty if the model's folder could never be read."""
    default: LoadedVersion | None
    """Answers requests that name no version; None if no version is loaded."""

    @property
    def loaded(self) -> list[LoadedVersion]:
        """The versions that serve, oldest first."""
        return [version for version in self.versions.values() if isinstance(version, LoadedVersion)]
