"""Data as it was published: fetched once, its checksum verified each time it is read.

A file under `DEEPSERVE_DATA_DIR` (or `--data-dir`) is taken as it is if its checksum fits; one that does not fit is
an error, since a model trained on other data is another model. A file that is absent is downloaded from its official
source.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from service.registry.card import DataSource


class DataError(Exception):
    """A data file is absent and cannot be had, or is not the published one; the message names it."""


@dataclass(frozen=True)
class File:
    """One published file: its checksum, as `algorithm:hex`, and the address it is downloaded from."""

    checksum: str
    url: str


@dataclass(frozen=True)
class Dataset:
    """A published data set: folder under the data directory, files, and what a card says of it."""

    folder: str
    name: str
    source: str
    licence: str
    citation: str
    files: dict[str, File]

    def fetch(self, file: str, data_dir: Path | None = None) -> Path:
        """The path of `file`, its checksum verified.

        Raises:
            DataError: the file's checksum does not fit, or it is absent and cannot be downloaded.
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
        except ValueError as error:  # pooch says so when the checksum does not fit
            raise DataError(f"{known.url} no longer serves the published file: {error}") from error
        except OSError as error:
            raise DataError(
                f"{directory / file} is absent (DEEPSERVE_DATA_DIR sets the folder), and its source "
                f"{known.url} cannot be reached: {error}"
            ) from error

    def describe(self, splits: dict[str, str]) -> DataSource:
        """What a card says of the data and how it was split."""
        return DataSource(
            name=self.name,
            source=self.source,
            licence=self.licence,
            citation=self.citation,
            checksums={name: file.checksum for name, file in self.files.items()},
            splits=splits,
        )


def default_data_dir() -> Path:
    """`DEEPSERVE_DATA_DIR`, or the user's cache."""
    return Path(os.environ.get("DEEPSERVE_DATA_DIR") or pooch.os_cache("deepserve"))
