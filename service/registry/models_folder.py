"""The models folder while it changes: its versions, whether their content is new, and what cannot be read."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from service.registry import layout
from service.registry.fingerprints import fingerprint

logger = logging.getLogger(__name__)

MAX_IGNORED_LOGGED = 20
"""Log lines about ignored folders after one scan."""


class ModelFiles(msgspec.Struct, frozen=True):
    """The version folders of one model."""

    fingerprints: Mapping[str, str] = {}
    """By version, the fingerprint of its files."""
    unreadable: Mapping[str, str] = {}
    """The versions whose files cannot be read, and why."""

    @property
    def numbers(self) -> list[str]:
        """All versions that have a folder."""
        return [*self.fingerprints, *self.unreadable]


class ModelsFolder:
    """Reads the models folder, and logs what is ignored in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._is_readable = True
        self._ignored: set[str] = set()
        """The log lines about ignored folders."""

    def scan(self) -> dict[str, ModelFiles]:
        """Return the version folders of each model; none if the models folder cannot be read.

        A folder that is named like a model and cannot be read is a model without versions.

        Raises:
            OSError: this process is out of file descriptors or memory.
        """
        try:
            found = layout.scan(self.root)
        except OSError as error:
            layout.raise_if_exhausted(error)
            if self._is_readable:
                logger.error("the models folder cannot be read: %s", layout.cause(error))  # noqa: TRY400
            self._is_readable = False
            return {}
        if not self._is_readable:
            logger.warning("the models folder can be read again")
        self._is_readable = True
        self._log_ignored(found.ignored)
        models = {name: self._files(name, numbers) for name, numbers in found.models.items()}
        return models | dict.fromkeys(found.unreadable, ModelFiles())

    def files(self, name: str) -> ModelFiles:
        """Return the version folders of a model.

        Raises:
            OSError: the model's folder cannot be read.
        """
        if not layout.MODEL_NAME.fullmatch(name):
            return ModelFiles()
        return self._files(name, layout.scan_model(self.root / name).versions)

    def _files(self, name: str, numbers: Sequence[str]) -> ModelFiles:
        fingerprints: dict[str, str] = {}
        unreadable: dict[str, str] = {}
        for number in numbers:
            directory = self.root / name / number
            try:
                fingerprints[number] = fingerprint(directory)
            except OSError as error:
                layout.raise_if_exhausted(error)
                file = Path(error.filename or directory).name
                place = f"{name}/{number}" if file == number else f"{name}/{number}/{layout.printable(file)}"
                unreadable[number] = f"{place}: {layout.cause(error)}"
        return ModelFiles(fingerprints, unreadable)

    def _log_ignored(self, ignored: Collection[str]) -> None:
        """Log which folders are ignored, each once."""
        new = [line for line in ignored if line not in self._ignored]
        for line in new[:MAX_IGNORED_LOGGED]:
            logger.warning("ignored: %s", line)
        if len(new) > MAX_IGNORED_LOGGED:
            logger.warning("ignored: %d more folders", len(new) - MAX_IGNORED_LOGGED)
        self._ignored = set(ignored)
