"""Published files, downloaded once and verified each time they are read.

A file under `DEEPSERVE_DATA_DIR` (or `--data-dir`) whose checksum differs is an error: a model trained on other data is
another model. An absent file is downloaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from service.registry.card import DataSource


class DataError(Exception):
    """A data file cannot be obtained, or is not the published one; the message names it."""


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    checksum: str
    """As `algorithm:hex`."""
    url: str = ""
    """The address that it is downloaded from; empty for a file that nobody publishes."""
    origin: str = ""
    """How an unpublished file was made."""


@dataclass(frozen=True)
class Dataset:
    """A published data set: its folder under the data directory, its files and its entry on a card."""

    folder: str
    name: str
    source: str
    licence: str
    citation: str
    files: dict[str, File]

    def fetch(self, file: str, data_dir: Path | None = None) -> Path:
        """Return the path of `file`, downloaded if absent and verified.

        Raises:
            DataError: the checksum differs, or the file is absent and cannot be downloaded.
        """
        directory = (data_dir or default_data_dir()) / self.folder
        known = self.files[file]
        path = directory / file
        if not path.exists():
            return self._download(file, directory)
        algorithm, _, expected = known.checksum.partition(":")
        if (found := pooch.file_hash(str(path), algorithm)) != expected:
            raise DataError(
                f"{path} is not the published file: its {algorithm} is {found}, not {expected}. "
                "Delete it to have it downloaded again."
            )
        return path

    def _download(self, file: str, directory: Path) -> Path:
        known = self.files[file]
        try:
            return Path(pooch.retrieve(known.url, known.checksum, fname=file, path=directory, progressbar=True))
        except ValueError as error:  # the checksum differs
            raise DataError(f"{known.url} no longer serves the published file: {error}") from error
        except OSError as error:
            raise DataError(
                f"{directory / file} is absent (DEEPSERVE_DATA_DIR sets the folder), and its source "
                f"{known.url} cannot be reached: {error}"
            ) from error

    def describe(self, splits: dict[str, str], files: tuple[str, ...] = ()) -> DataSource:
        """Return the card's entry.

        Args:
            splits: name of each split to the rows in it.
            files: those that were read, by default all.
        """
        read = {name: self.files[name] for name in files or self.files}
        return DataSource(
            name=self.name,
            source=self.source,
            licence=self.licence,
            citation=self.citation,
            checksums={name: file.checksum for name, file in read.items()},
            origins={name: file.url or file.origin for name, file in read.items()},
            splits=splits,
        )


def default_data_dir() -> Path:
    """Return `DEEPSERVE_DATA_DIR`, or a folder in the user's cache."""
    return Path(os.environ.get("DEEPSERVE_DATA_DIR") or pooch.os_cache("deepserve"))
