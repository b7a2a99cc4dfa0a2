"""The versions under the models folder and the ones that are loaded: each is verified before it serves.

A version that fails is unavailable, with the reason, and never takes a good one down: a loaded version stays until its
replacement is ready. A failure to read is not a deletion: a loaded version whose files are missing serves on. Loading
takes seconds and is meant for a thread; each change of a model's versions is one assignment, so readers need no lock.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from service.engine.session import Runtime, Session
from service.errors import NotFound, Unavailable
from service.registry.card import Card
from service.registry.models_folder import NO_FILES, ModelFiles, ModelsFolder
from service.registry.verification import UnreadableError, VerificationError, verify
from service.version_policy import VersionPolicy

logger = logging.getLogger(__name__)

UNLOADED = "unloaded"
"""The reason of versions that an administrator has unloaded."""
FILES_MISSING = "its files are missing"
"""The reason of versions and models that cannot be read."""


class State(StrEnum):
    """Whether a version serves."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, eq=False)
class Version:
    """One `models/<name>/<version>`: its card and session if it is ready, the reason if it is not."""

    name: str
    number: str
    reason: str | None = None
    """Of a ready version: what is wrong with its files, which have changed since it was loaded."""
    card: Card | None = None
    session: Session | None = None
    fingerprint: str = ""
    """Of the files that were verified; empty if none were."""
    rejected: str = ""
    """Of a ready version: the fingerprint of newer files that failed verification."""
    files_missing: bool = False
    """Whether its files could not be read."""

    @property
    def state(self) -> State:
        """Whether it serves."""
        return State.UNAVAILABLE if self.session is None else State.READY

    @property
    def failed(self) -> bool:
        """Whether it does not serve although its version policy chooses it."""
        return self.session is None and (self.files_missing or bool(self.fingerprint))

    @property
    def cannot_be_loaded_again(self) -> bool:
        """Whether it serves while its files are missing, unreadable or damaged."""
        return self.session is not None and (self.files_missing or bool(self.rejected))


class Repository:
    """All versions of all models, oldest first."""

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        policies: Mapping[str, VersionPolicy] | None = None,
        prepare: Callable[[Version], None] = lambda _version: None,
        on_trial: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """A repository from which nothing is loaded yet.

        Args:
            root: the folder `models/`.
            runtime: what sessions run on.
            policies: of the models that do not have the default.
            prepare: makes a verified version answer; what it raises makes it unavailable.
            on_trial: by model, versions that are loaded beside the latest N.
        """
        self.root = root
        self.folder = ModelsFolder(root)
        self.models: dict[str, dict[str, Version]] = {}
        self._runtime = runtime
        self._policies = policies or {}
        self._prepare = prepare
        self._on_trial = on_trial or {}

    def load(
        self,
        name: str,
        numbers: Sequence[str],
        policy: VersionPolicy | None = None,
        unreadable: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        """Load the versions of a model that its policy chooses, and take the others out of service.

        A version is verified unless it is ready and the content of its files is the same. A version that fails does
        not count: the next older one is tried in its place, and if all fail, the versions that served before stay.

        Args:
            name: of the model.
            numbers: its versions. One that is ready stays ready even if its files cannot be read.
            policy: in place of the model's own.
            unreadable: versions whose files some worker could not read, and why.

        Returns:
            Why versions failed, one line each.
        """
        policy = policy or self.policy(name)
        known = self.models.get(name, {})
        try:
            files = self.folder.files(name)
        except OSError:
            files = NO_FILES
        on_trial = self._on_trial.get(name, ())
        loaded: dict[str, Version] = {}
        newer = 0
        failures: list[str] = []
        for number in sorted(numbers, key=int, reverse=True):
            if not policy.chooses(number, newer, on_trial):
                loaded[number] = Version(name, number, f"the version policy ({policy}) leaves it out")
                continue
            before = known.get(number)
            if number in unreadable and before is not None and before.state is State.READY:
                version = _missing(name, number, unreadable[number], before)
            elif number in files.fingerprints:
                version = self._load(name, number, files.fingerprints[number], before)
            else:
                version = self._missing(name, number, files, before)
            loaded[number] = version
            if version.reason is not None:
                failures.append(f"version {number}: {version.reason}")
            newer += version.state is State.READY and number not in on_trial
        if not any(version.state is State.READY for version in loaded.values()):
            for number, version in known.items():
                if version.state is State.READY:
                    is_there = number in files.fingerprints
                    loaded[number] = version if is_there else self._missing(name, number, files, version)
        self._put(name, {number: loaded[number] for number in sorted(loaded, key=int)})
        return failures

    def is_readable_again(self, name: str) -> bool:
        """Return whether a version of a model that failed because its files were missing can be read now."""
        missing = {each.number for each in self.models.get(name, {}).values() if each.failed and each.files_missing}
        try:
            return bool(missing) and not missing.isdisjoint(self.folder.files(name).fingerprints)
        except OSError:
            return False

    def unload(self, name: str, numbers: Sequence[str]) -> None:
        """Take a model out of service. `numbers` are all its versions."""
        self._put(name, {number: Version(name, number, UNLOADED) for number in sorted(numbers, key=int)})

    def forget(self, name: str) -> None:
        """Take a model out of service and out of the index."""
        self.models = {known: versions for known, versions in self.models.items() if known != name}

    def policy(self, name: str) -> VersionPolicy:
        """Which versions of a model are loaded."""
        return self._policies.get(name, VersionPolicy())

    def versions(self, name: str) -> dict[str, Version]:
        """Every version of a model, ready or not, oldest first.

        Raises:
            NotFound: there is no such model.
        """
        if (versions := self.models.get(name)) is None:
            raise NotFound(f"There is no model {name!r}.")
        return versions

    def version(self, name: str, version: str) -> Version:
        """One version of a model, ready or not.

        Raises:
            NotFound: there is no such model or version.
        """
        if (found := self.versions(name).get(version)) is None:
            raise NotFound(f"Model {name!r} has no version {version!r}.")
        return found

    def ready_versions(self, name: str) -> list[Version]:
        """The ready versions of a model, newest last.

        Raises:
            NotFound: there is no such model.
        """
        return [version for version in self.versions(name).values() if version.state is State.READY]

    def newest(self, name: str) -> Version:
        """The newest ready version.

        Raises:
            NotFound: there is no such model.
            Unavailable: none of its versions is ready.
        """
        if not (ready := self.ready_versions(name)):
            raise Unavailable(f"No version of model {name!r} is ready.")
        return ready[-1]

    def _put(self, name: str, versions: dict[str, Version]) -> None:
        """In a new table: others may be reading the old one."""
        self.models = dict(sorted({**self.models, name: versions}.items()))

    def _load(self, name: str, number: str, fingerprint: str, known: Version | None) -> Version:
        """Return the version, verified; the known one if it is ready and its content is the same or fails."""
        if known is None or known.state is not State.READY:
            return self._verified(name, number, fingerprint, known)
        if known.fingerprint == fingerprint:
            return known if known.reason is None else replace(known, reason=None, rejected="", files_missing=False)
        if known.rejected == fingerprint and not known.files_missing:
            return known
        version = self._verified(name, number, fingerprint, known)
        if version.files_missing:
            return version
        if version.state is State.READY:
            logger.warning(
                "model %s version %s: its files have been replaced under the same number; "
                "a retrained model should get a new number",
                name,
                number,
            )
            return version
        logger.error("model %s version %s serves on as it was loaded", name, number)
        reason = f"its files have changed and were not taken: {version.reason}"
        return replace(known, reason=reason, rejected=fingerprint, files_missing=False)

    def _missing(self, name: str, number: str, files: ModelFiles, known: Version | None) -> Version:
        why = files.unreadable.get(number) or self.folder.why_missing(name, number)
        return _missing(name, number, why, known)

    def _verified(self, name: str, number: str, fingerprint: str, known: Version | None) -> Version:
        try:
            card, session = verify(self.root / name / number, self._runtime)
            version = Version(name, number, card=card, session=session, fingerprint=fingerprint)
            self._prepare(version)
        except UnreadableError as error:
            return _missing(name, number, f"{name}/{number}: {error}", known)
        except VerificationError as error:
            logger.error("model %s version %s is unavailable: %s", name, number, error)  # noqa: TRY400
            return Version(name, number, str(error), fingerprint=fingerprint)
        except Exception:  # whatever is wrong with one version, the others serve
            logger.exception("model %s version %s is unavailable", name, number)
            return Version(name, number, "it cannot be read; the log says why", fingerprint=fingerprint)
        logger.info("model %s version %s is ready on %s in %s", name, number, session.provider, session.precision)
        return version


def _missing(name: str, number: str, why: str, known: Version | None) -> Version:
    """Return a version whose files cannot be read: the known one if it is ready."""
    if known is not None and known.state is State.READY:
        return replace(known, reason=f"{FILES_MISSING} ({why}); it serves on as it was loaded", files_missing=True)
    reason = f"{FILES_MISSING} ({why})"
    if known is None or known.reason != reason:
        logger.error("model %s version %s is unavailable: %s", name, number, reason)
    return Version(name, number, reason, files_missing=True)
