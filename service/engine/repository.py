"""What is in models/ and what of it is loaded: each version verified before it serves, the reason kept if it fails.

A version that fails is unavailable and never takes a good one down: what serves goes only when what replaces it is
ready. Loading takes seconds and is for a thread; each change of a model's versions is one assignment, so that readers
need no lock.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

from service.engine import layout
from service.engine.card import Card
from service.engine.inference import Runtime, Session
from service.engine.verification import VerificationError, verify
from service.errors import NotFound, Unavailable
from service.versions import VersionPolicy

logger = logging.getLogger(__name__)

UNLOADED = "unloaded"
"""The reason of versions that somebody has taken out of service: they are not missed."""

Fingerprints = Mapping[str, str]
"""Version to what tells whether its files have changed."""


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
    """Of a ready version: why its files, changed since, were not taken."""
    card: Card | None = None
    session: Session | None = None
    fingerprint: str = ""
    """Of its files when they were last verified."""

    @property
    def state(self) -> State:
        """Whether it serves."""
        return State.UNAVAILABLE if self.session is None else State.READY


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
        self.models: dict[str, dict[str, Version]] = {}
        self._runtime = runtime
        self._policies = policies or {}
        self._prepare = prepare
        self._on_trial = on_trial or {}
        self._strays: set[str] = set()
        """What the log has said of folders that are neither a model nor a version."""

    def scan(self) -> dict[str, Fingerprints]:
        """The models under `root` and the fingerprint of each version; folders with other names are ignored.

        Raises:
            OSError: `root` cannot be read.
        """
        found = layout.scan(self.root)
        for stray in set(found.strays) - self._strays:
            logger.warning("ignored: %s", stray)
        self._strays = set(found.strays)
        return {name: self.fingerprints(name) for name in found.models}

    def fingerprints(self, name: str) -> Fingerprints:
        """The fingerprint of each version of a model, oldest first; none if there is no such model.

        Raises:
            OSError: its folder cannot be read.
        """
        directory = self.root / name
        if not layout.MODEL_NAME.fullmatch(name) or not directory.is_dir():
            return {}
        return {number: _fingerprint(directory / number) for number in layout.versions(directory)}

    def load(self, name: str, numbers: Sequence[str], policy: VersionPolicy | None = None) -> list[str]:
        """Loads those versions of a model that its policy chooses, and takes the others out of service.

        A version is verified unless it is ready and its files are as they were. Those that fail do not count: in place
        of one the next older is tried, and if all fail, those that have served go on.

        Args:
            name: of the model.
            numbers: its versions, oldest first.
            policy: in place of the model's own.

        Returns:
            What failed, a line a version.

        Raises:
            OSError: the model's folder cannot be read.
        """
        policy = policy or self.policy(name)
        present, known = self.fingerprints(name), self.models.get(name, {})
        on_trial = self._on_trial.get(name, ())
        loaded: dict[str, Version] = {}
        newer = 0
        failures: list[str] = []
        for number in sorted(numbers, key=int, reverse=True):
            if not policy.chooses(number, newer, on_trial):
                loaded[number] = Version(name, number, f"the version policy ({policy}) leaves it out")
            elif number in present:
                loaded[number] = self._load(name, number, present[number], known.get(number))
                if loaded[number].reason is not None:
                    failures.append(f"version {number}: {loaded[number].reason}")
                newer += loaded[number].state is State.READY and number not in on_trial
        if not any(version.state is State.READY for version in loaded.values()):
            loaded |= {number: each for number, each in known.items() if number in loaded and each.state is State.READY}
        self._put(name, dict(reversed(loaded.items())))
        return failures

    def unload(self, name: str, numbers: Sequence[str]) -> None:
        """Takes those versions of a model, which are all of it, out of service."""
        self._put(name, {number: Version(name, number, UNLOADED) for number in sorted(numbers, key=int)})

    def forget(self, name: str) -> None:
        """Takes a model out of service of which nothing is left under `root`."""
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

    @property
    def ready(self) -> bool:
        """Whether there are models, and each has a version that is ready or has been unloaded."""
        return bool(self.models) and all(
            any(version.state is State.READY or version.reason == UNLOADED for version in versions.values())
            for versions in self.models.values()
        )

    def _put(self, name: str, versions: dict[str, Version]) -> None:
        """In a new table: others may be reading the old one."""
        self.models = dict(sorted({**self.models, name: versions}.items()))

    def _load(self, name: str, number: str, fingerprint: str, known: Version | None) -> Version:
        """The version, verified; the known one where its files have not changed, or have got worse."""
        if known is not None and known.state is State.READY and known.fingerprint == fingerprint:
            return known
        version = self._verified(name, number, fingerprint)
        if version.state is not State.READY and known is not None and known.state is State.READY:
            logger.error("model %s version %s serves on as it was loaded", name, number)
            return replace(
                known, reason=f"its files have changed and were not taken: {version.reason}", fingerprint=fingerprint
            )
        return version

    def _verified(self, name: str, number: str, fingerprint: str) -> Version:
        try:
            card, session = verify(self.root / name / number, self._runtime)
            version = Version(name, number, card=card, session=session, fingerprint=fingerprint)
            self._prepare(version)
        except VerificationError as error:
            logger.error("model %s version %s is unavailable: %s", name, number, error)  # noqa: TRY400
            return Version(name, number, str(error), fingerprint=fingerprint)
        except Exception:  # whatever is wrong with one version, the others serve
            logger.exception("model %s version %s is unavailable", name, number)
            return Version(name, number, "it cannot be read; the log says why", fingerprint=fingerprint)
        logger.info("model %s version %s is ready on %s in %s", name, number, session.provider, session.precision)
        return version


def _fingerprint(directory: Path) -> str:
    """Tells whether a file in `directory` has changed, by names, sizes and times."""
    try:
        files = [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
        facts = [(path.name, *_facts(path)) for path in files]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _facts(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:  # a link to nothing, or a file that has just gone
        return (error.errno or 0,)
    return status.st_size, status.st_mtime_ns
