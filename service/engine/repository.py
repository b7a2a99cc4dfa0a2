"""What is in models/: each version verified before it serves, the reason kept where one fails.

One that fails is unavailable and never takes a good one down.
"""

import logging
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from service.engine.card import Card
from service.engine.inference import Runtime, Session
from service.engine.verification import VerificationError, verify
from service.errors import NotFound, Unavailable

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class State(StrEnum):
    """Whether a version serves."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Version:
    """One `models/<name>/<version>`: its card and session if it is ready, the reason if it is not."""

    name: str
    version: str
    directory: Path
    state: State
    reason: str | None = None
    card: Card | None = None
    session: Session | None = None


@dataclass
class Repository:
    """All versions of all models, newest last."""

    root: Path
    runtime: Runtime = field(default_factory=Runtime)
    models: dict[str, dict[str, Version]] = field(default_factory=dict)

    def load(self) -> None:
        """Verifies, loads and warms every version under `root`; folders with other names are ignored."""
        for directory in sorted(self.root.iterdir()):
            if directory.is_dir() and _NAME.fullmatch(directory.name):
                numbers = [d.name for d in directory.iterdir() if d.is_dir() and _VERSION.fullmatch(d.name)]
                if numbers:
                    self.models[directory.name] = {
                        number: self._load(directory / number) for number in sorted(numbers, key=int)
                    }

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

    def newest(self, name: str) -> Version:
        """The newest ready version.

        Raises:
            NotFound: there is no such model.
            Unavailable: none of its versions is ready.
        """
        for version in reversed(self.versions(name).values()):
            if version.state is State.READY:
                return version
        raise Unavailable(f"No version of model {name!r} is ready.")

    @property
    def ready(self) -> bool:
        """Whether there are models, and each has a version that is ready."""
        return bool(self.models) and all(
            any(version.state is State.READY for version in versions.values()) for versions in self.models.values()
        )

    def _load(self, directory: Path) -> Version:
        name, number = directory.parent.name, directory.name
        try:
            card, session = verify(directory, self.runtime)
        except VerificationError as error:
            logger.error("model %s version %s is unavailable: %s", name, number, error)  # noqa: TRY400
            return Version(name, number, directory, State.UNAVAILABLE, reason=str(error))
        except Exception:  # whatever is wrong with one version, the others serve
            logger.exception("model %s version %s is unavailable", name, number)
            return Version(name, number, directory, State.UNAVAILABLE, reason="it cannot be read; the log says why")
        logger.info("model %s version %s is ready on %s in %s", name, number, session.provider, session.precision)
        return Version(name, number, directory, State.READY, card=card, session=session)
